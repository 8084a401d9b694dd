"""Each stage learns a handful of real frames (a motorway, MIT licence) nearly by heart.

A stage with a wrong gradient, a frozen part that should move, or a shifted target cannot do this.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_stream.config import FrameSize, Preset, VideoDecoderConfig
from sim_stream.models.video_decoder import inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.video import read_clip
from tests.small import SMALL
from tests.train.worlds import loop
from train.config import LossConfig, TokenizerTraining, VideoDecoderTraining, WorldModelTraining
from train.data.split import FILES, Drive, Split
from train.data.tokenize import tokenize
from train.loop import Trainer
from train.sequences import Draw, Sequences
from train.tokenizer import FrameBatches, TokenizerStage
from train.video_decoder import Clips, VideoDecoderStage
from train.world_model import WorldModelStage, init_from_codebook

pytestmark = pytest.mark.slow

FRAMES, SIZE = 4, 64
VQ = replace(
    SMALL.vq, block_out_channels=(16, 32, 32), latent_channels=8, num_vq_embeddings=256,
    norm_num_groups=8, frame=FrameSize.square(SIZE),
)  # fmt: skip
PRESET: Preset = replace(
    SMALL,
    vq=VQ,
    video_decoder=VideoDecoderConfig(temporal_levels=1),
    world_model=replace(
        SMALL.world_model, hidden_size=96, num_heads=4, intermediate_size=192, vision_vocab_size=400
    ),
)
PLAIN = LossConfig(perceptual=0.0, ssl=0.0, gan=0.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Split:
    frames = read_clip(real_data / "highway_white_right.mp4", frames=FRAMES, size=VQ.frame)
    folder = tmp_path_factory.mktemp("motorway") / "train"
    folder.mkdir()
    np.save(folder / FILES.frames, frames)
    np.save(folder / FILES.actions, np.full((FRAMES, 2), np.nan, np.float32))
    drives = [vars(Drive(id="motorway", start=0, length=FRAMES))]
    (folder / FILES.drives).write_text(json.dumps(drives))
    return Split.open(folder.parent, "train")


@pytest.fixture(scope="module")
def tuned(split: Split, tmp_path_factory: pytest.TempPathFactory) -> TokenizerStage:
    """Stage 1, which the others need."""
    torch.manual_seed(0)
    stage = TokenizerStage(
        VQModel(VQ),
        TokenizerTraining(losses=PLAIN, plain_share=0.3, mirror=False),
        FrameBatches(split, FRAMES, 0, mirror=False),
        validation=split.pixels(slice(0, FRAMES)),
    )
    config = loop(
        tmp_path_factory.mktemp("stage1"), 160, lr=4e-3, ema_decay=None, batch=FRAMES,
        precision="fp32",
    )  # fmt: skip
    Trainer(stage, config).run()
    stage.vq.eval()
    tokenize(split, stage.vq)
    return stage


def test_stage_1_reconstructs_its_frames(tuned: TokenizerStage) -> None:
    found = tuned.validate()
    assert found["psnr"] > 25.0, found  # dB; the mean picture alone gives 14


def test_stage_2_knows_its_sequence_by_heart(
    split: Split, tuned: TokenizerStage, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = WorldModel(PRESET.world_model)
    model.init_weights()
    init_from_codebook(model, tuned.vq.quantize.embedding.weight)
    sequences = Sequences(split, PRESET, Draw(frames=2, batch=2))
    training = WorldModelTraining(frames=2, all_image_ids=False)
    runs = sequences.evenly(3)
    stage = WorldModelStage(model, PRESET, training, sequences, runs)
    config = loop(tmp_path, 100, lr=5e-3, ema_decay=None, batch=2, muon="model.layers.")
    before = stage.validate()["nats_frame2"]
    Trainer(stage, config).run()
    after = stage.validate()["nats_frame2"]
    assert before > 4.0  # nats; ln(256) = 5.5 before anything is known
    assert after < 0.3, after


def test_stage_3_is_at_least_as_good_as_the_image_decoder(
    split: Split, tuned: TokenizerStage, tmp_path: Path
) -> None:
    model = inflate(tuned.vq, PRESET.video_decoder)
    config = VideoDecoderTraining(losses=replace(PLAIN, codebook=0.0))
    clips = Clips(split, 2)
    stage = VideoDecoderStage(model, config, clips, validation=clips.evenly(2))
    before = stage.validate()["psnr_slot1"]
    assert before == pytest.approx(tuned.validate()["psnr"], abs=1.5)  # inflated: as the 2D one
    Trainer(stage, loop(tmp_path, 100, lr=1e-3, ema_decay=None, batch=2, precision="fp32")).run()
    assert stage.validate()["psnr_slot1"] > before + 0.3
