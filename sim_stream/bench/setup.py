"""What is profiled, decided before anything runs: device, types, and whether it fits.

The memory a system needs is computed from its preset: weights, KV cache, activations. Where it
cannot fit, or no machine of that kind could hold a pace worth measuring, that is said at once with
both numbers and nothing is allocated.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sim_stream.bench.counting import Storage, kv_numbers_per_position, layer_parameters
from sim_stream.bench.module_counts import (
    Cost,
    decode_cost,
    encode_cost,
    inference_models,
    prefill_peak_bytes,
    weight_bytes,
)
from sim_stream.bench.options import BenchOptions
from sim_stream.config import Preset, get_preset
from sim_stream.errors import Unavailable
from sim_stream.layout import FrameLayout
from sim_stream.models import checkpoints
from sim_stream.models.quantize import INT4_GROUPS
from sim_stream.pipelines.tokens.random_weights import stand_in_prompt
from sim_stream.runtime.choices import Precision, pick_device, pick_precision

# CUDA context and the libraries' workspaces; on a CPU the interpreter with its libraries.
OVERHEAD_BYTES = {"cuda": 1_500_000_000, "cpu": 500_000_000}
# At 20 GB/s, what two CPU cores read, a frame takes a minute: nobody means that by `auto`.
MOST_BYTES_ON_A_CPU = 1.2e12


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a system needs on its device, and why."""

    weights: int
    kv_cache: int
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.activations + self.overhead

    def __str__(self) -> str:
        parts = ("weights", "kv_cache", "activations", "overhead")
        named = (f"{part.replace('_', ' ')} {getattr(self, part) / 1e9:.1f}" for part in parts)
        return f"{self.total / 1e9:.1f} GB ({', '.join(named)})"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is profiled and what it needs."""

    preset: Preset
    layout: FrameLayout
    device: torch.device
    precision: Precision
    lookahead: int
    memory: Memory
    encode: Cost
    video_decode: Cost
    pass_bytes: int  # what a pass reads: weights, and keys and values of a full context

    @property
    def storage(self) -> Storage:
        return storage_of(self.precision)


def storage_of(precision: Precision) -> Storage:
    """Scales are counted with int4's groups; fp8 has one for thousands of numbers."""
    whole = precision.whole.itemsize
    layer_bytes = {"fp8": 1.0, "int4": 0.5 + 4 / INT4_GROUPS[0]}
    return Storage(
        layer_bytes=layer_bytes.get(precision.name, whole),
        head_bytes=whole,
        kv_bytes=precision.cache.itemsize,
    )


def prepare(options: BenchOptions, *, prompt_frames: int) -> Setup:
    """Raises InvalidInput, CheckpointError, Unavailable."""
    device = pick_device(options.device)
    prompt = stand_in_prompt(get_preset(options.preset))
    if not options.random_weights:
        folder = checkpoints.weights_dir(options.preset, options.weights)
        prompt = tuple(checkpoints.read_manifest(folder).get("prompt_ids", ()))
    setup = _count(options, len(prompt), device, prompt_frames)
    free = free_bytes(device)
    a_frame = setup.pass_bytes * setup.layout.codes_per_frame
    if device.type == "cpu" and options.device == "auto" and a_frame > MOST_BYTES_ON_A_CPU:
        wanted = _count(options, len(prompt), torch.device("cuda"), prompt_frames)
        raise Unavailable(
            f"preset {options.preset} needs a CUDA device with {wanted.memory} free; here is no "
            f"CUDA device, and {free / 1e9:.1f} GB of main memory are free (--device cpu tries it "
            "there all the same)"
        )
    refuse_what_cannot_fit(setup, free)
    return setup


def refuse_what_cannot_fit(setup: Setup, free: int) -> None:
    """Raises Unavailable with both numbers."""
    if setup.memory.total > free:
        raise Unavailable(
            f"preset {setup.preset.name} needs {setup.memory} on {setup.device.type}; "
            f"{free / 1e9:.1f} GB are free"
        )


def _count(
    options: BenchOptions, prompt_length: int, device: torch.device, prompt_frames: int
) -> Setup:
    preset = get_preset(options.preset)
    precision = pick_precision(options.precision, options.kv_precision, device)
    dtype, video_dtype = precision.whole, precision.video
    lookahead = preset.session.lookahead if options.lookahead is None else options.lookahead
    layout = FrameLayout.of(preset, prompt_length)
    capacity = layout.context_length(preset.session.context_frames)
    encoder, world_model, video_decoder = inference_models(preset)
    encode = encode_cost(encoder, frames=prompt_frames, dtype=dtype)
    # Without lookahead the frame that leaves is the window's last.
    video_decode = decode_cost(video_decoder, frames=3, emit=2 - lookahead, dtype=video_dtype)
    # One session's cache, and the second one that the frames which outlive it are prefilled into.
    positions = capacity + layout.context_length(preset.session.anchor_frames)
    storage = storage_of(precision)
    per_position = round(kv_numbers_per_position(preset.world_model) * storage.kv_bytes)
    layers = layer_parameters(preset.world_model)
    models = ((encoder, dtype), (world_model, dtype), (video_decoder, video_dtype))
    prefill = prefill_peak_bytes(preset.world_model, ids=capacity, dtype=dtype)
    memory = Memory(
        # Quantised ones are loaded as they are stored and replaced layer by layer.
        weights=sum(weight_bytes(model, kind) for model, kind in models),
        kv_cache=positions * per_position,
        # World model and video decoder work at the same time, the encoder alone.
        activations=max(prefill + video_decode.peak_bytes, encode.peak_bytes),
        overhead=OVERHEAD_BYTES[device.type],
    )
    return Setup(
        preset=preset,
        layout=layout,
        device=device,
        precision=precision,
        lookahead=lookahead,
        memory=memory,
        encode=encode,
        video_decode=video_decode,
        pass_bytes=round(layers * storage.layer_bytes) + capacity * per_position,
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a new process can have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
