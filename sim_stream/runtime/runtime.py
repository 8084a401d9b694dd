"""Runtime: a preset's three models on one device, and the sessions that share them.

Device and precision are decided once, here, and logged. Models are read-only after loading, so any
number of sessions and threads may use them. Knows nothing about sockets.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from sim_stream.config import Preset, SamplingConfig, get_preset
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.layout import FrameLayout
from sim_stream.models import checkpoints
from sim_stream.models.layers import channels_last
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.runtime.session import Session

log = logging.getLogger(__name__)


class Runtime:
    """`encoder`, `world_model` and `video_decoder` of one preset, ready to run."""

    def __init__(
        self,
        preset: Preset,
        encoder: VQModel,
        world_model: WorldModel,
        video_decoder: VideoDecoder,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prompt_ids: tuple[int, ...] = (),
        model_id: str = "unnamed",
        weights_sha256: str = "",
    ) -> None:
        if bool(preset.prompt) != bool(prompt_ids):
            raise InvalidInput("prompt_ids", prompt_ids, f"the ids of the prompt {preset.prompt!r}")
        self.preset, self.device, self.dtype = preset, torch.device(device), dtype
        self.layout = FrameLayout.of(preset, len(prompt_ids))
        self.prompt_ids = prompt_ids
        self.model_id, self.weights_sha256 = model_id, weights_sha256

        for model in (encoder, world_model, video_decoder):
            model.to(self.device, dtype).eval().requires_grad_(False)
        channels_last(encoder)
        channels_last(video_decoder)
        self.encoder, self.video_decoder = encoder, video_decoder
        self.world_model = world_model.fuse()

    @classmethod
    def load(
        cls, preset_name: str, *, weights: Path | str | None = None, device: str = "auto"
    ) -> Runtime:
        """A preset with the weights of a folder (default: those shipped with the package).

        Raises InvalidInput (preset, device), CheckpointError, Unavailable.
        """
        preset = get_preset(preset_name)
        where = pick_device(device)
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        loaded = checkpoints.load(checkpoints.weights_dir(preset_name, weights), preset)
        log.info("preset %s (%s) on %s in %s", preset.name, loaded.model_id, where, dtype)
        return cls(
            preset,
            loaded.vq_model,
            loaded.world_model,
            loaded.video_decoder,
            device=where,
            dtype=dtype,
            prompt_ids=loaded.prompt_ids,
            model_id=loaded.model_id,
            weights_sha256=loaded.sha256,
        )

    def open_session(self, *, lookahead: int | None = None) -> Session:
        config = self.preset.session
        return Session(self, config if lookahead is None else replace(config, lookahead=lookahead))

    def check_seed(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise InvalidInput("seed", seed, "an integer, 0..2^64-1")

    def check_text(self, text: str | None) -> None:
        if text is not None and text != self.preset.prompt:
            raise InvalidInput("text", repr(text), f"null or this preset's {self.preset.prompt!r}")

    def check_sampling(self, sampling: SamplingConfig | None) -> SamplingConfig:
        sampling = self.preset.sampling if sampling is None else sampling
        if sampling.top_k > self.layout.num_codes:
            raise InvalidInput("sampling.top_k", sampling.top_k, f"1..{self.layout.num_codes}")
        return sampling


def pick_device(name: str) -> torch.device:
    """`auto` takes a CUDA device where there is one. Raises InvalidInput, Unavailable."""
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidInput("device", name, "auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda was asked for and this PyTorch sees no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
