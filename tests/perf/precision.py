"""What a precision of the world model costs: KL to bf16 and agreement of greedy codes.

The last frame of a full context of real frames is scored under teacher forcing, position by
position. On a CPU the quantised kernels' CPU forms run, which no server offers; the numbers they
multiply are the same.

python -m tests.perf.precision [--frames N] [--device D] [--weights DIR] [--preset P] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sim_stream.layout import FrameLayout
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.quantize import QUANTIZED, quantize
from sim_stream.models.vq_model import from_pixels
from sim_stream.models.world_model import WorldModel
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.plain_json import to_json
from sim_stream.video import SAMPLE, read_clip
from tests.perf.machine import describe


@torch.inference_mode()
def log_probabilities(
    model: WorldModel, layout: FrameLayout, contexts_BS: Tensor, cache_dtype: torch.dtype
) -> Tensor:
    """Of the last frame's codes (B N V), over a cache of that type."""
    rows = []
    for ids_S in contexts_BS:
        size, device = len(ids_S), ids_S.device
        cache = KVCache(model.config, size, device=device, dtype=cache_dtype)
        hidden = model(ids_S[None], None, cache)[0, -layout.codes_per_frame - 1 : -1]
        rows.append(model.vision_logits(hidden, layout.num_codes).float().log_softmax(-1))
    return torch.stack(rows)


@torch.inference_mode()
def contexts(runtime: Runtime, count: int) -> Tensor:
    """Windows of real frames, unknown actions, as the world model sees them (B S)."""
    layout, frames = runtime.layout, runtime.preset.session.context_frames
    clip = read_clip(SAMPLE, frames=frames + count - 1, size=runtime.preset.vq.frame)
    ids_TN = runtime.encoder.encode(from_pixels(torch.from_numpy(clip).to(runtime.device)))
    action = torch.tensor(layout.action_ids(None), dtype=torch.int64, device=runtime.device)
    end = torch.tensor([layout.end_of_frame], device=runtime.device)
    rows = []
    for start in range(count):
        parts = [part for ids_N in ids_TN[start : start + frames] for part in (action, ids_N, end)]
        rows.append(torch.cat(parts)[:-1])  # up to the last code
    return torch.stack(rows)


def variant(runtime: Runtime, precision: str) -> WorldModel:
    model = copy.deepcopy(runtime.world_model)
    if precision == "fp32":
        return model
    model = model.bfloat16().fuse()
    return model if precision == "bf16" else quantize(model, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    runtime = Runtime.load(
        args.preset,
        weights=args.weights,
        device=args.device,
        precision="fp32",
        step_engine="torch",
        max_sessions=1,
    )
    layout, windows_BS = runtime.layout, contexts(runtime, args.frames)
    fp8, bf16 = torch.float8_e4m3fn, torch.bfloat16
    exact = log_probabilities(variant(runtime, "bf16"), layout, windows_BS, bf16)
    report: dict[str, Any] = {
        "benchmark": "precision",
        "machine": describe(),
        "model_id": runtime.model_id,
        "positions": exact.shape[0] * exact.shape[1],
        "against": "bf16",
    }
    runs = [("fp32", torch.float32), ("bf16", fp8)]
    runs += [(name, cache) for name in QUANTIZED for cache in (bf16, fp8)]
    for precision, cache_dtype in runs:
        found = log_probabilities(variant(runtime, precision), layout, windows_BS, cache_dtype)
        kl = (exact.exp() * (exact - found)).sum(-1)
        agreed = (exact.argmax(-1) == found.argmax(-1)).float().mean()
        name = f"{precision}, cache {'fp8' if cache_dtype == fp8 else 'full'}"
        report[name] = {
            "kl_nats_mean": round(float(kl.mean()), 6),
            "kl_nats_p99": round(float(kl.flatten().quantile(0.99)), 6),
            "greedy_agreement": round(float(agreed), 4),
        }
        print(f"{name:16} {report[name]}", flush=True)
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
