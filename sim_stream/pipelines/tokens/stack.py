"""What the sessions of one runtime share: its models and engines, cache, passes and checks.

Models are read-only after loading, so any number of sessions and threads may use them; passes of
the world model run one at a time. Knows no sessions, and not where weights come from.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch

from sim_stream.config import (
    TORCH_ENGINES,
    DecodingConfig,
    Preset,
    SamplingConfig,
)
from sim_stream.decoding.lanes import Lane, Lanes
from sim_stream.decoding.onnx_pass import OnnxPasses
from sim_stream.decoding.passes import Passes, TorchPasses
from sim_stream.decoding.static_lanes import StaticLane, StaticLanes
from sim_stream.decoding.strategy import Task
from sim_stream.errors import InvalidInput
from sim_stream.expects import NOTHING_SAID, Expects
from sim_stream.layout import FrameLayout
from sim_stream.models.attention import pick_attention
from sim_stream.models.kv_cache import KVPool
from sim_stream.models.layers import channels_last, fold_upsampling
from sim_stream.models.quantize import quantize
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.runtime.choices import Precision, pick_step_engine
from sim_stream.runtime.engine_loader import load_folder
from sim_stream.runtime.engine_manifest import Host
from sim_stream.runtime.timing import Streams
from sim_stream.runtime.torch_engine import torch_engines

MAX_SESSIONS = 4
TURN_S = 0.002
FP32 = Precision(whole=torch.float32, video=torch.float32, cache=torch.float32)


class Stack:
    """`encoder`, `world_model` and `video_decoder` of one preset, ready to run."""

    def __init__(
        self,
        preset: Preset,
        encoder: VQModel,
        world_model: WorldModel,
        video_decoder: VideoDecoder,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = FP32,
        prompt_ids: tuple[int, ...] = (),
        model_id: str = "unnamed",
        weights_sha256: str = "",
        inflated: bool = False,
        expects: Expects = NOTHING_SAID,
        step_engine: str = "auto",
        attention: str = "auto",
        max_sessions: int = MAX_SESSIONS,
        engines: str | Path = "eager",
    ) -> None:
        """`max_sessions`: KV cache is allocated for as many. `engines`: how PyTorch runs encoder
        and video decoder, or a folder of built engines. `inflated`: the video decoder was never
        trained in time. `expects`: what the weights say of prompts, camera and actions.
        """
        if bool(preset.prompt) != bool(prompt_ids):
            raise InvalidInput("prompt_ids", prompt_ids, f"the ids of the prompt {preset.prompt!r}")
        self.preset, self.device, self.precision = preset, torch.device(device), precision
        self.layout = FrameLayout.of(preset, len(prompt_ids))
        self.prompt_ids = prompt_ids
        self.model_id, self.weights_sha256 = model_id, weights_sha256
        self.inflated, self.expects = inflated, expects

        # Before the weights change: a folder's engines are held to those that were loaded.
        mode = str(engines) if str(engines) in TORCH_ENGINES else None
        host = None if mode else Host.of(preset, encoder, video_decoder, self.device)

        fold_upsampling(video_decoder)
        whole, video = precision.whole, precision.video
        for model, kind in ((encoder, whole), (world_model, whole), (video_decoder, video)):
            model.to(self.device, kind).eval().requires_grad_(False)
        channels_last(encoder)
        channels_last(video_decoder)
        self.encoder, self.video_decoder = encoder, video_decoder
        self.engines = (
            load_folder(Path(engines), host)
            if host
            else torch_engines(encoder, video_decoder, str(mode), self.device)
        )
        self.world_model = world_model.fuse()
        if precision.quantized is not None:
            quantize(self.world_model, precision.quantized)
        self.step_engine = pick_step_engine(step_engine, self.world_model)
        # A window of the static passes may reach beyond the context's last code.
        static = self.step_engine in ("static", "compiled")
        self.pool = KVPool(
            preset.world_model,
            self.layout.context_length(preset.session.context_frames),
            max_sessions,
            spare=self.layout.codes_per_frame if static else 1,
            device=self.device,
            dtype=precision.cache,
        )
        self._lanes, self._lock = Lanes(self._make_passes()), threading.Lock()
        self.attention = "sdpa" if self.step_engine == "torch" else "ONNX Runtime's"
        self._static = self._make_static(attention)
        self.streams = Streams(self.device)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # all weights are there for every stream

    def _make_passes(self) -> Passes:
        passes = TorchPasses(self.world_model, self.layout.num_codes)
        if self.step_engine != "onnxruntime":
            return passes
        return OnnxPasses(passes, self.pool, threads=torch.get_num_threads())

    def _make_static(self, attention: str) -> StaticLanes | None:
        if self.step_engine not in ("static", "compiled"):
            if attention != "auto":
                engine = f"{attention} with step engine {self.step_engine}"
                raise InvalidInput("attention", engine, "auto, unless it is static or compiled")
            return None
        compiled = self.step_engine == "compiled"
        self.attention, attend = pick_attention(
            attention, self.device, self.precision.whole, compiled
        )
        return StaticLanes(
            self.world_model,
            self.pool,
            attend,
            lead=self.layout.lead_length,
            codes=self.layout.codes_per_frame,
            vocabulary=self.layout.num_codes,
            compiled=compiled,
        )

    def begin(self, decoding: DecodingConfig, task: Task) -> Lane | StaticLane:
        """A frame in the making, which `advance` takes further."""
        with self._lock:
            if self._static is not None and decoding.kind.drawn is not None:
                return self._static.begin(decoding.kind.drawn(decoding), task)
            strategy = decoding.kind.make(decoding, self.preset.vq.grid)
            return self._lanes.begin(strategy, task)

    def advance(self) -> None:
        """A pass for every frame in the making, of all sessions, and further ones until a frame is
        done or `TURN_S` is over: between two turns frames join."""
        end_s = time.perf_counter() + TURN_S
        with self._lock, self.streams.world_model():
            under_way = self._under_way
            while self._under_way == under_way > 0:
                self._lanes.advance()
                if self._static is not None:
                    self._static.advance()
                if time.perf_counter() >= end_s:
                    return

    @property
    def _under_way(self) -> int:
        """Frames in the making."""
        static = 0 if self._static is None else len(self._static.active)
        return len(self._lanes.active) + static

    def drop(self, lane: Lane | StaticLane) -> None:
        """Gives up a frame in the making."""
        with self._lock:
            if isinstance(lane, Lane):
                self._lanes.drop(lane)
            elif self._static is not None:
                self._static.drop(lane)

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

    def check_decoding(self, decoding: DecodingConfig | None) -> DecodingConfig:
        decoding = self.preset.decoding if decoding is None else decoding
        decoding.check_fits(self.preset.vq.grid)
        return decoding
