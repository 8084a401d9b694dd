"""``sim-stream bench --roofline H100``: what a GPU allows, calculated, not measured.

A pass of the world model with a full context reads every weight but the text head and the keys and
values of the context; at the GPU's bandwidth that gives passes a second, and so the frames a second
of one token a pass and the tokens a pass that a frame rate needs (facts/decoding_and_gpu.md,
"Roofline of one world-model pass"). Needs no GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sim_stream.bench.counting import (
    PassSize,
    Storage,
    Work,
    layer_parameters,
    norms,
    pass_work,
)
from sim_stream.bench.options import BenchOptions
from sim_stream.config import Preset, get_preset
from sim_stream.errors import InvalidInput
from sim_stream.layout import FrameLayout
from sim_stream.plain_json import to_json


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """NVIDIA's data sheet, SXM form; dense operations in bf16 (half of the sparse figure)."""

    name: str
    tb_per_s: float
    bf16_tflop_per_s: float


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "H100": Gpu(name="H100", tb_per_s=3.35, bf16_tflop_per_s=989.0),
        "H200": Gpu(name="H200", tb_per_s=4.8, bf16_tflop_per_s=989.0),
    }
)
# int4: groups of 128 share a bf16 scale and zero point, 32 bits more; the head stays in fp8.
INT4_BYTES = 0.5 + 4 / 128
PRECISIONS: Mapping[str, Storage] = MappingProxyType(
    {
        "bf16 / bf16": Storage(layer_bytes=2, head_bytes=2, kv_bytes=2),
        "fp8 / bf16": Storage(layer_bytes=1, head_bytes=1, kv_bytes=2),
        "fp8 / fp8": Storage(layer_bytes=1, head_bytes=1, kv_bytes=1),
        "int4 / fp8": Storage(layer_bytes=INT4_BYTES, head_bytes=1, kv_bytes=1),
    }
)
EFFICIENCIES = (1.0, 0.8)  # of the bandwidth; four fifths is what good kernels reach
GOALS_FPS = (4, 8, 12)


def run(options: BenchOptions, gpu_name: str) -> int:
    """Prints the calculation. Raises InvalidInput for a GPU that is not in the table."""
    if options.model is not None:
        raise InvalidInput("roofline", gpu_name, "nothing beside --model: only presets are counted")
    report = calculate(get_preset(options.preset), pick_gpu(gpu_name))
    print(as_text(report))
    if options.as_json:
        print(to_json(report))
    return 0


def pick_gpu(name: str) -> Gpu:
    if name.upper() not in GPUS:
        raise InvalidInput("roofline", name, ", ".join(GPUS))
    return GPUS[name.upper()]


def calculate(preset: Preset, gpu: Gpu) -> dict[str, Any]:
    """JSON-ready: the size of a pass, and a row per precision of weights and KV cache."""
    from sim_stream.pipelines.tokens.random_weights import stand_in_prompt

    layout = FrameLayout.of(preset, len(stand_in_prompt(preset)))
    context = layout.context_length(preset.session.context_frames)
    config, size = preset.world_model, PassSize(ids=1, rows=1, end=context)
    head = config.vision_vocab_size
    read = layer_parameters(config) + norms(config) + head * config.hidden_size
    works = {
        name: pass_work(config, size, storage, head_rows=head)
        for name, storage in PRECISIONS.items()
    }
    bf16 = works["bf16 / bf16"]
    return {
        "preset": preset.name,
        "gpu": gpu.name,
        "tb_per_s": gpu.tb_per_s,
        "bf16_tflop_per_s": gpu.bf16_tflop_per_s,
        "context": context,
        "tokens_per_frame": layout.frame_length,
        "weights_read": read,
        "gflop_per_token": bf16.flop / 1e9,
        "tflop_per_frame": bf16.flop * layout.frame_length / 1e12,
        "compute_bound_tokens": (bf16.bytes / gpu.tb_per_s) / (bf16.flop / gpu.bf16_tflop_per_s),
        "stages": _stages(preset, gpu),
        "rows": [_row(name, work, gpu, layout.frame_length) for name, work in works.items()],
    }


def _row(name: str, work: Work, gpu: Gpu, tokens_per_frame: int) -> dict[str, Any]:
    """``tokens_per_frame`` counts the end of frame, as the paper does."""
    row: dict[str, Any] = {"precision": name, "gb_per_pass": work.bytes / 1e9, "at": {}}
    for efficiency in EFFICIENCIES:
        passes_per_s = efficiency * gpu.tb_per_s * 1e12 / work.bytes
        row["at"][f"{efficiency:.0%}"] = {
            "tokens_per_s": passes_per_s,
            "fps": passes_per_s / tokens_per_frame,
            "tokens_per_pass_for_fps": {
                str(fps): fps * tokens_per_frame / passes_per_s for fps in GOALS_FPS
            },
        }
    return row


def _stages(preset: Preset, gpu: Gpu) -> dict[str, dict[str, float]]:
    """The convolutional stages, which operations bound."""
    import torch

    from sim_stream.bench.module_counts import decode_cost, encode_cost, inference_models

    encoder, _, video_decoder = inference_models(preset)
    costs = {
        "encode one frame": encode_cost(encoder, frames=1, dtype=torch.bfloat16),
        "video decode": decode_cost(video_decoder, frames=3, emit=1, dtype=torch.bfloat16),
    }
    return {
        name: {
            "gflop": cost.work.flop / 1e9,
            "ms": max(
                1e3 * cost.work.flop / (gpu.bf16_tflop_per_s * 1e12),
                1e3 * cost.work.bytes / (gpu.tb_per_s * 1e12),
            ),
        }
        for name, cost in costs.items()
    }


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"{report['preset']} on an {report['gpu']}, on paper: {report['tb_per_s']:g} TB/s, "
        f"{report['bf16_tflop_per_s']:g} TFLOP/s in bf16. Nothing was measured, "
        "and the time to launch kernels is left out.",
        f"A pass over {report['context']:,} positions reads {report['weights_read'] / 1e9:.4g} B "
        f"weights; {report['gflop_per_token']:.3g} GFLOP a token, "
        f"{report['tflop_per_frame']:.2g} TFLOP a frame of {report['tokens_per_frame']} tokens.",
        f"In bf16 a pass of up to {report['compute_bound_tokens']:.0f} tokens costs what a pass of "
        "one does.",
        "",
        "                          one token a pass at               tokens a pass at 80 % for",
        "weights / KV  GB a pass   100 %: tok/s   fps   80 %: tok/s   fps    "
        + "  ".join(f"{fps:>2} fps" for fps in GOALS_FPS),
    ]
    lines += [_row_text(row) for row in report["rows"]]
    lines.append("")
    lines += [
        f"{name}: {stage['gflop']:,.4g} GFLOP, {stage['ms']:.2g} ms at least"
        for name, stage in report["stages"].items()
    ]
    return "\n".join(lines)


def _row_text(row: dict[str, Any]) -> str:
    full, usual = row["at"]["100%"], row["at"]["80%"]
    size = row["gb_per_pass"]
    gb = f"{size:.1f}" if size >= 1 else f"{size:.2g}"
    # A pass brings one token at least.
    needed = [max(1.0, tokens) for tokens in usual["tokens_per_pass_for_fps"].values()]
    return (
        f"{row['precision']:12}  {gb:>9}   {full['tokens_per_s']:12.0f} {full['fps']:5.2f}   "
        f"{usual['tokens_per_s']:11.0f} {usual['fps']:5.2f}    "
        + "  ".join(f"{tokens:6.1f}" for tokens in needed)
    )
