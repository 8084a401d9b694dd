"""Stages from a command line's choices: weights to start from, data, networks of the losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import VideoDecoder, inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from train import checkpoint
from train.carry_over import carry_over_from
from train.config import (
    LoopConfig,
    LossConfig,
    TokenizerTraining,
    VideoDecoderTraining,
    WorldModelTraining,
)
from train.convnets import Perceptual, vgg16
from train.data.ids import tokenizer_sha256
from train.data.split import Split
from train.external import networks_folder, read_state
from train.lora import add_adapters
from train.losses import Features
from train.parallel import Ranks
from train.sequences import Draw, Sequences
from train.teacher import Teacher, load_teacher
from train.tokenizer import FrameBatches, TokenizerStage
from train.video_decoder import Clips, VideoDecoderStage
from train.world_model import WorldModelStage, init_from_codebook

HELD_OUT_FRAMES, HELD_OUT_RUNS, HELD_OUT_CLIPS = 64, 32, 24


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where things come from. `init`: weights folder; `runs`: folder of the stages' runs."""

    cache: Path
    init: Path | None = None
    runs: Path | None = None
    networks: Path | None = None
    teacher: Path | None = None
    validation: str = "val"


def part_state(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return checkpoints.read_part(folder, part, checkpoints.read_manifest(folder))


def rounded(model: nn.Module) -> nn.Module:
    """Weights as `pack` stores them, so that ids made now are the ids of the packed tokenizer."""
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half().float())
    return model


def trained_state(stage: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights of a run's newest checkpoint under that prefix: averaged where it has an EMA."""
    state = checkpoint.latest(stage)
    with checkpoint.fitting(stage):
        found = state["ema"] if state["ema"] is not None else state["model"]
        return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def load_vq(preset: Preset, sources: Sources) -> VQModel:
    """The trained tokenizer: that of `runs`/tokenizer, else that of `init`."""
    model = VQModel(preset.vq)
    run = sources.runs / "tokenizer" if sources.runs else None
    if run is not None and checkpoint.find(run):
        checkpoints.load_strict(model, trained_state(run, "vq."), str(run))
    elif sources.init is not None:
        checkpoints.load_strict(model, part_state(sources.init, "vq_model"), str(sources.init))
    else:
        raise CheckpointError(
            f"no tokenizer: {run or '--runs'} has no checkpoint and no --init is given"
        )
    rounded(model)
    return model.eval()


def perceptual(losses: LossConfig, sources: Sources, device: torch.device) -> Features | None:
    if not losses.perceptual:
        return None
    state = read_state("vgg16", networks_folder(sources.networks))
    return Perceptual(vgg16().load(state, "vgg16")).to(device)


def teacher(losses: LossConfig, preset: Preset, sources: Sources, ranks: Ranks) -> Teacher | None:
    if not losses.ssl:
        return None
    return load_teacher(losses.teacher, sources.teacher, preset.vq.grid).to(ranks.device)


def held_out(sources: Sources) -> Split | None:
    there = (sources.cache / sources.validation).is_dir()
    return Split.open(sources.cache, sources.validation) if there else None


def spread(length: int, count: int) -> np.ndarray:
    return np.linspace(0, length - 1, min(count, length)).astype(int)


def tokenizer(
    preset: Preset, config: TokenizerTraining, loop: LoopConfig, sources: Sources, ranks: Ranks
) -> TokenizerStage:
    refuse_fsdp(loop)
    features = perceptual(config.losses, sources, ranks.device)
    guide = teacher(config.losses, preset, sources, ranks)
    train = Split.open(sources.cache, "train")
    train.images(slice(0, 1))
    model = VQModel(preset.vq)
    if sources.init is not None:
        checkpoints.load_strict(model, part_state(sources.init, "vq_model"), str(sources.init))
    elif not config.plain_share:
        raise InvalidInput("init", "none", "a weights folder, which this recipe trains on")
    val = held_out(sources)
    rows = spread(len(val), HELD_OUT_FRAMES) if val else None
    frames = val.pixels(rows) if val and rows is not None else None
    batches = FrameBatches(train, loop.batch, loop.seed, config.mirror)
    return TokenizerStage(
        model, config, batches, features=features, teacher=guide, validation=frames
    )


def world_model(
    preset: Preset, config: WorldModelTraining, loop: LoopConfig, sources: Sources, ranks: Ranks
) -> WorldModelStage:
    vq = load_vq(preset, sources)
    tokenizer_hash = tokenizer_sha256(vq)
    prompt: tuple[int, ...] = ()
    if sources.init is not None:
        prompt = tuple(checkpoints.read_manifest(sources.init).get("prompt_ids", ()))
    draw = Draw(
        frames=config.drawn_frames,
        batch=loop.batch,
        seed=loop.seed,
        unknown=config.unknown_actions if preset.actions_per_frame else 0.0,
        sink_frames=preset.session.sink_frames,
    )
    about = {"prompt_ids": prompt, "tokenizer": tokenizer_hash}
    split = Split.open(sources.cache, "train")
    train = Sequences(split, preset, draw, **about)  # type: ignore[arg-type]
    val = held_out(sources)
    whole = replace(draw, frames=config.frames)
    runs = Sequences(val, preset, whole, **about).evenly(HELD_OUT_RUNS) if val else None  # type: ignore[arg-type]
    model = start_of(preset, config, sources, vq)
    # Adapters learn the new codes themselves (the paper); a begun run has weights of its own.
    if sources.init is not None and config.lora is None and not checkpoint.find(loop.out):
        old = load_vq(preset, replace(sources, runs=None))
        if tokenizer_sha256(old) != tokenizer_hash:
            if ranks.leads:
                print(
                    f"{sources.init}: of another tokenizer; its codes are carried over", flush=True
                )
            carry_over_from(model, old, split, train.ids)
    return WorldModelStage(model, preset, config, train, runs, tokenizer=tokenizer_hash)


def start_of(
    preset: Preset, config: WorldModelTraining, sources: Sources, vq: VQModel
) -> WorldModel:
    """The weights of `init` with fresh adapters, or a fresh small model."""
    if sources.init is None:
        if config.lora is not None:
            raise InvalidInput("init", "none", "a weights folder: adapters go onto trained weights")
        model = WorldModel(preset.world_model)
        model.init_weights()
        init_from_codebook(model, vq.quantize.embedding.weight)
        return model
    with torch.device("meta"):
        model = WorldModel(preset.world_model)
    state = part_state(sources.init, "world_model")
    if config.lora is None:
        checkpoints.load_strict(model, state, str(sources.init))
        return model
    # Frozen weights are bf16 from the start: 7 billion of them in fp32 would be 27 GB a process.
    try:
        model.load_state_dict({k: v.bfloat16() for k, v in state.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{sources.init}: {error}") from error
    return add_adapters(model, config.lora)


def video_decoder(
    preset: Preset,
    config: VideoDecoderTraining,
    loop: LoopConfig,
    sources: Sources,
    ranks: Ranks,
    *,
    continued: bool = False,
) -> VideoDecoderStage:
    """Inflated from the tokenizer's image decoder, or `continued` from the weights of `init`."""
    refuse_fsdp(loop)
    features = perceptual(config.losses, sources, ranks.device)
    vq = load_vq(preset, sources)
    sha256 = tokenizer_sha256(vq)
    clips = Clips(Split.open(sources.cache, "train"), loop.batch, loop.seed, tokenizer=sha256)
    val = held_out(sources)
    validation = Clips(val, 1, tokenizer=sha256).evenly(HELD_OUT_CLIPS) if val else None
    model = inflate(vq, preset.video_decoder)
    if continued:
        if sources.init is None:
            raise InvalidInput("init", "none", "--init WEIGHTS, whose video decoder is trained on")
        own = tokenizer_sha256(load_vq(preset, replace(sources, runs=None)))
        if own != sha256:
            given = f"{sources.init} (tokenizer {own[:12]})"
            raise InvalidInput("init", given, f"a video decoder of tokenizer {sha256[:12]}")
        state = part_state(sources.init, "video_decoder")
        checkpoints.load_strict(model, state, str(sources.init))
    return VideoDecoderStage(
        model,
        config,
        clips,
        features=features,
        validation=validation,
        identity={"tokenizer": sha256},
    )


def refuse_fsdp(loop: LoopConfig) -> None:
    """A decoder is called by its parts too, and is far too small to need sharding."""
    if loop.parallel == "fsdp":
        raise InvalidInput("parallel", "fsdp", "ddp for this stage; fsdp is for the world model")


def trained_models(
    preset: Preset, sources: Sources, config: WorldModelTraining
) -> dict[str, nn.Module]:
    """The three models of finished runs, adapters merged, for `pack` and `evaluate`."""
    assert sources.runs is not None
    return {
        "vq_model": load_vq(preset, sources),
        "world_model": trained_world_model(preset, sources, config),
        "video_decoder": trained_video_decoder(preset, sources.runs / "video-decoder"),
    }


def trained_video_decoder(preset: Preset, run: Path) -> VideoDecoder:
    model = VideoDecoder(preset.vq, preset.video_decoder)
    checkpoints.load_strict(model, trained_state(run), str(run))
    return model.eval()


def export_adapter(preset: Preset, runs: Path, config: WorldModelTraining, out: Path) -> None:
    """`runs`/world-model's adapters as a folder of PEFT's. Raises InvalidInput without any."""
    from train.lora import save_adapters

    if config.lora is None:
        allowed = "one whose world model is trained by LoRA: openviga"
        raise InvalidInput("preset", preset.name, allowed)
    save_adapters(trained_state(runs / "world-model", "model."), config.lora, out)


def trained_world_model(preset: Preset, sources: Sources, config: WorldModelTraining) -> WorldModel:
    """Of `runs`/world-model; adapters are merged into the weights of `init`."""
    from train.lora import merged_state

    assert sources.runs is not None
    run = sources.runs / "world-model"
    state = trained_state(run, "model.")
    model = WorldModel(preset.world_model)
    if config.lora is None:
        checkpoints.load_strict(model, state, str(run))
        return model.eval()
    if sources.init is None:
        raise InvalidInput("init", "none", "the weights folder that the adapters were trained on")
    base = part_state(sources.init, "world_model")
    checkpoints.load_strict(model, base, str(sources.init))
    add_adapters(model, config.lora)
    model.load_state_dict({**model.state_dict(), **state})
    plain = WorldModel(preset.world_model)
    checkpoints.load_strict(plain, merged_state(model), str(run))
    return plain.eval()
