"""Raster decoding of one frame by the model as it is and by the ONNX step, in one run.

They are run in turn, so that a drift of the machine's speed meets all.

python -m tests.perf.raster [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.onnx_pass import OnnxPasses
from sim_stream.decoding.passes import Passes, TorchPasses
from sim_stream.decoding.raster import Raster
from sim_stream.decoding.slots import decode
from sim_stream.decoding.strategy import Task
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.plain_json import to_json
from tests.perf.machine import describe

KINDS = ("full", "onnx")


class Bench:
    """Decodes the last frame of a full context again and again."""

    def __init__(self, runtime: Runtime, kind: str) -> None:
        layout, frames = runtime.layout, runtime.preset.session.context_frames
        self.cache = runtime.pool.take()
        self.sampling, self.start = runtime.preset.sampling, layout.frame_start(frames - 1)
        self.noise = gumbel_noise(0, 0, layout.codes_per_frame, layout.num_codes)
        self.guess = torch.zeros(layout.codes_per_frame, dtype=torch.int64)
        self.lead = torch.tensor([layout.action_ids(None)])
        self.passes: Passes = TorchPasses(runtime.world_model, layout.num_codes)
        if kind == "onnx":
            self.passes = OnnxPasses(self.passes, runtime.pool)
        ids = torch.randint(0, layout.num_codes, (1, self.start))
        with torch.inference_mode():
            runtime.world_model(ids, None, self.cache)

    def frame_ms(self) -> float:
        self.cache.roll_back(self.start)
        task = Task(self.cache, self.lead, self.noise, self.sampling, self.guess)
        start = time.perf_counter()
        decode(Raster(), task, self.passes)
        return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    machine = describe()
    runtime = Runtime.load("pocket", device="cpu")
    benches = {kind: Bench(runtime, kind) for kind in KINDS}
    times = {name: [] for name in benches}  # type: dict[str, list[float]]
    for _ in range(args.rounds):
        for name, bench in benches.items():
            times[name].append(bench.frame_ms())
    report = {"benchmark": "raster", "machine": machine}
    for name, ms in times.items():
        p50, p95 = np.percentile(ms, [50, 95])
        print(f"{name}: p50 {p50:.1f} ms per frame, p95 {p95:.1f}")
        report[f"{name}_frame_ms"] = {"p50": round(p50, 2), "p95": round(p95, 2)}
    for kind in KINDS[1:]:
        ratios = np.array(times["full"]) / np.array(times[kind])
        report[f"full_to_{kind}_ratio_p50"] = round(float(np.median(ratios)), 3)
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
