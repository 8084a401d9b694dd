"""A step's latency around re-anchoring, with the second cache filled ahead and without, in one run.

Two sessions of equal seeds take turns: one prefills ahead after every step, as the server does
between two steps; the other, the reference, never, so that its step at the switch does all of that
work at once. Their tokens are compared.

python -m tests.perf.switch [--steps N] [--preset NAME] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.session import Session
from sim_stream.plain_json import to_json
from sim_stream.video import SAMPLE, read_clip
from tests.perf.machine import describe


def step_ms(session: Session) -> float:
    start = time.perf_counter()
    session.predict()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe()
    runtime = Runtime.load(args.preset)
    clip = read_clip(SAMPLE, frames=2, size=runtime.preset.vq.frame)
    sessions = {"settled": runtime.open_session(), "unsettled": runtime.open_session()}
    for session in sessions.values():
        session.reset(clip, seed=0)
    switching, prefill_ahead_ms = [], []
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(args.steps):
        switching.append(sessions["settled"]._context.full)
        start = time.perf_counter()
        sessions["settled"].prefill_ahead()
        prefill_ahead_ms.append(1e3 * (time.perf_counter() - start))
        for name, session in sessions.items():
            times_ms[name].append(step_ms(session))
        ids = [session.latest_ids.tolist() for session in sessions.values()]
        assert ids[0] == ids[1]

    at_switch = np.array(switching)
    report: dict[str, Any] = {
        "benchmark": "switch",
        "machine": machine,
        "preset": args.preset,
        "switches": int(at_switch.sum()),
        "prefill_ahead_ms_p50": round(float(np.median(prefill_ahead_ms)), 2),
    }
    for name, ms in times_ms.items():
        at, between = np.array(ms)[at_switch], np.array(ms)[~at_switch]
        report[name] = {
            "at_switch_ms_p50": round(float(np.median(at)), 2),
            "between_ms_p50": round(float(np.median(between)), 2),
            "spike_ms": round(float(np.median(at) - np.median(between)), 2),
        }
        print(name, report[name])
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
