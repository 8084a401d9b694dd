"""A tiny split and the three stages at a size that trains in seconds; also run as a process.

    python -m tests.train.worlds KIND FOLDER STEPS [die-at|stop-at STEP] [--fsdp] [--fp32]

trains in FOLDER/run on the split in FOLDER/cache (made if missing), as a run that can be killed
(its first rank) or asked to stop (its last rank).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim_stream.config import FrameSize, Preset
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from tests.small import SMALL, random_vq, random_world_model
from train import checkpoint
from train.config import (
    DiscriminatorConfig,
    LoopConfig,
    LoraConfig,
    LossConfig,
    TokenizerTraining,
    VideoDecoderTraining,
    WorldModelTraining,
)
from train.data.split import FILES, Drive, Split
from train.data.tokenize import tokenize
from train.loop import Stage, Trainer
from train.lora import add_adapters
from train.parallel import Ranks, join, leave
from train.sequences import Draw, Sequences
from train.tokenizer import FrameBatches, TokenizerStage
from train.video_decoder import Clips, VideoDecoderStage
from train.world_model import WorldModelStage

TINY_GAME = DiscriminatorConfig(
    width=8, downs=2, norm_groups=4, generator_from=0.3, discriminator_from=0.2
)
PIXELS = LossConfig(perceptual=0.0, ssl=0.0, gan=0.02, edge=0.5)
KINDS = ("tokenizer", "world-model", "contexts", "lora", "video-decoder")


def make_split(folder: Path, frame: FrameSize = SMALL.vq.frame) -> Split:
    """Two drives of a bright square that wanders over a dark road."""
    folder.mkdir(parents=True)
    frames = np.full((12, *frame.shape), 40, np.uint8)
    for i, image in enumerate(frames):
        image[8:16, 2 * i : 2 * i + 8] = (200, 120, 60)
    actions = np.stack([np.full(12, 8.0), np.linspace(-0.3, 0.3, 12)], 1).astype(np.float32)
    np.save(folder / FILES.frames, frames)
    np.save(folder / FILES.actions, actions)
    drives = [Drive(id="a", start=0, length=7), Drive(id="b", start=7, length=5)]
    (folder / FILES.drives).write_text(json.dumps([vars(d) for d in drives]))
    return Split.open(folder.parent, folder.name)


def loop(out: Path, steps: int, **options: Any) -> LoopConfig:
    out.mkdir(parents=True, exist_ok=True)
    values = {
        "lr": 3e-3, "final_lr": 6e-5, "warmup_steps": 2, "log_every": 5, "save_every": 1000,
        "batch": 4, "ema_decay": 0.9,
    }  # fmt: skip
    return LoopConfig(out=out, steps=steps, **{**values, **options})


def stage_of(
    kind: str, split: Split, batch: int = 4, vq: VQModel | None = None, small: Preset = SMALL
) -> Stage:
    """Fresh, with seeded weights; the split must have ids for all but the tokenizer."""
    torch.manual_seed(0)
    if kind == "tokenizer":
        config = TokenizerTraining(
            losses=PIXELS, discriminator=TINY_GAME, plain_share=0.15, reseed_every=5
        )
        validation = split.pixels(slice(0, 4))
        return TokenizerStage(
            VQModel(small.vq), config, FrameBatches(split, batch, 0), validation=validation
        )
    if kind == "video-decoder":
        stage3 = VideoDecoderTraining(losses=replace(PIXELS, codebook=0.0), discriminator=TINY_GAME)
        model = inflate(vq or random_vq(small.vq), small.video_decoder)
        clips = Clips(split, batch)
        return VideoDecoderStage(model, stage3, clips, validation=clips.evenly(2))
    contexts = kind == "contexts"  # as a rollout has them, with a first frame that stays
    preset = replace(small, session=replace(small.session, sink_frames=int(contexts)))
    lora = LoraConfig(rank=4, dropout=0.1) if kind == "lora" else None
    stage2 = WorldModelTraining(
        frames=4,
        lora=lora,
        all_image_ids=lora is not None,
        scheduled_sampling=0.5 if contexts else 0.0,
        token_corruption=0.5 if contexts else 0.0,
        checkpointing=lora is not None,
    )
    draw = Draw(frames=stage2.drawn_frames, batch=batch, unknown=0.1, sink_frames=int(contexts))
    sequences = Sequences(split, preset, draw)
    world = random_world_model(small).train()
    if lora:
        add_adapters(world, lora)
    return WorldModelStage(world, preset, stage2, sequences, sequences.evenly(2))


def options_of(kind: str) -> dict[str, Any]:
    return {"muon": "model.layers."} if kind in ("world-model", "contexts") else {}


def train(
    kind: str, folder: Path, steps: int, ranks: Ranks | None = None, **options: Any
) -> Trainer:
    """A run in folder/run on folder/cache/train; goes on from its checkpoints."""
    split = Split.open(folder / "cache", "train")
    config = loop(folder / "run", steps, **{**options_of(kind), **options})
    trainer = Trainer(stage_of(kind, split, config.batch), config, ranks)
    trainer.resume()
    trainer.run()
    return trainer


def prepare(folder: Path) -> Split:
    split = make_split(folder / "cache" / "train")
    tokenize(split, random_vq())
    return split


def tokenizer_run(runs: Path, vq: VQModel) -> Path:
    """A folder of runs that holds a trained tokenizer."""
    state = {f"vq.{k}": v for k, v in vq.state_dict().items()}
    checkpoint.write(runs / "tokenizer", 1, {"model": state, "ema": None}, keep=1)
    return runs


def main() -> None:
    kind, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ends_at = {name: int(sys.argv[5]) for name in ("die-at", "stop-at") if name in sys.argv}
    ranks = join("cpu")
    split = Split.open(folder / "cache", "train")
    parallel = "fsdp" if "--fsdp" in sys.argv else "ddp"
    precision = "fp32" if "--fp32" in sys.argv else "bf16"
    options = {"parallel": parallel, "precision": precision, **options_of(kind)}
    config = loop(folder / "run", steps, save_every=3, **options)
    stage = stage_of(kind, split, config.batch)
    after = stage.after_step

    def after_step(step: int) -> None:
        after(step)
        if step == ends_at.get("die-at") and ranks.leads:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == ends_at.get("stop-at") and ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stage.after_step = after_step  # type: ignore[method-assign]
    trainer = Trainer(stage, config, ranks)
    trainer.resume()
    trainer.run()
    leave()


if __name__ == "__main__":
    main()
