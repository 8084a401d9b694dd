"""Engines of small presets, built and verified once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.build import build
from engines.build_options import BuildOptions
from engines.export import ExportOptions, Source
from engines.verify import verify
from sim_stream.config import FrameSize, Preset, VideoDecoderConfig
from sim_stream.video import SAMPLE, read_clip
from tests.small import SMALL, random_video_decoder, random_vq

CPU = torch.device("cpu")
# Exporting a graph takes as long as it has operators; these have few.
TINY = replace(
    SMALL,
    name="tiny",
    vq=replace(SMALL.vq, block_out_channels=(8, 16), frame=FrameSize.square(16)),
    video_decoder=VideoDecoderConfig(temporal_levels=2),
)


def source_of(preset: Preset, seed: int = 0) -> Source:
    """The models that `random_runtime` of that preset and seed runs with."""
    return Source(
        preset=preset,
        encoder=random_vq(preset.vq, seed),
        video_decoder=random_video_decoder(preset, seed),
    )


def real_frames(preset: Preset, frames: int = 6) -> Tensor:
    """Frames of the shipped clip, (K H W C)."""
    return torch.from_numpy(read_clip(SAMPLE, frames=frames, size=preset.vq.frame))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Preset], Path]:
    """``built(preset)``: a folder of verified ONNX Runtime engines. Read only."""
    folders: dict[str, Path] = {}

    def make(preset: Preset) -> Path:
        if preset.name not in folders:
            folder = tmp_path_factory.mktemp(f"engines-{preset.name}")
            source = source_of(preset)
            build(source, folder, ExportOptions(), BuildOptions())
            verify(folder, source, real_frames(preset), CPU, "shipped clip")
            folders[preset.name] = folder
        return folders[preset.name]

    return make


@pytest.fixture
def tiny_engines(built: Callable[[Preset], Path]) -> Path:
    return built(TINY)
