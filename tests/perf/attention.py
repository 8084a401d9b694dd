"""Attention backends over a static cache, in one run: time and difference to the plain reference.

One row of a preset's shape. Backends that cannot run here are named with the reason.

python -m tests.perf.attention [--windows 1,16] [--slots T] [--rounds N] [--device D] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.config import ATTENTIONS, get_preset
from sim_stream.errors import Unavailable
from sim_stream.models.attention import Attend, pick_attention, plain
from sim_stream.plain_json import to_json
from tests.perf.machine import describe


def median_us(run: Callable[[], object], rounds: int, device: torch.device) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - start))
    return sorted(times)[rounds // 2]


def over_slots_in_use(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    """What the pass that is not static does: views of the slots in use; the host knows how many."""
    window = q.shape[2]
    end = int(positions[0, -1]) + 1
    mask = torch.ones(window, end, dtype=torch.bool, device=q.device).tril(end - window)
    return F.scaled_dot_product_attention(q, k[:, :, :end], v[:, :, :end], attn_mask=mask)


def backends(device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Attend], dict[str, str]]:
    """Those that run here, and why the others do not."""
    there: dict[str, Attend] = {"not static": over_slots_in_use}
    missing = {}
    for name in ATTENTIONS[1:]:
        try:
            _, there[name] = pick_attention(name, device, dtype, compiled=True)
        except Unavailable as reason:
            missing[name] = str(reason)
    if "flex" in there:
        there["flex"] = torch.compile(there["flex"], dynamic=False)
    return there, missing


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--windows", default="1,16,64")
    parser.add_argument("--slots", type=int, default=1037)
    parser.add_argument("--filled", type=float, default=0.75, help="part of the slots in use")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, config = torch.device(args.device), get_preset(args.preset).world_model
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    there, missing = backends(device, dtype)
    report: dict[str, Any] = {"benchmark": "attention", "machine": describe()}
    report |= {"preset": args.preset, "unavailable": missing, "windows": {}}
    heads, dim = config.num_heads, config.head_dim
    k, v = torch.randn(2, 1, heads, args.slots, dim, device=device, dtype=dtype)
    for window in map(int, args.windows.split(",")):
        first = int(args.filled * args.slots)
        positions = torch.arange(first, first + window, device=device)[None]
        q = torch.randn(1, heads, window, dim, device=device, dtype=dtype)
        expected, row = plain(q, k, v, positions), {}
        for name, attend in there.items():
            difference = float((attend(q, k, v, positions) - expected).abs().max())
            timed = median_us(lambda a=attend, q=q, p=positions: a(q, k, v, p), args.rounds, device)
            row[name] = {"us": round(timed, 1), "difference": difference}
        report["windows"][window] = row
        print(f"window {window}: " + ", ".join(f"{n} {r['us']} us" for n, r in row.items()))
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
