"""Throughput against the number of sessions, end to end: clients of one server, as fast as they go.

Every client is a thread with one session and two steps in flight. `share` is the slowest client's
part of a fair share of the frames.

python -m tests.perf.sessions [--sessions 1,2,4] [--seconds S] [--decoding HOW] [--out FILE]
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from sim_stream.plain_json import to_json
from sim_stream.server_process import ServerProcess
from sim_stream.video import SAMPLE, read_clip
from sim_stream.wire.client.blocking_client import StreamClient
from tests.perf.machine import describe

WARM_UP_STEPS = 4


def drive(
    endpoint: str, seed: int, barrier: threading.Barrier, seconds: float, latencies_ms: list[float]
) -> None:
    """One client's drive; the latency of every step between the barrier and the end."""
    with (
        StreamClient(endpoint, timeout_s=60.0) as client,
        client.open(read_clip(SAMPLE, frames=2), seed=seed) as session,
    ):
        for _ in range(WARM_UP_STEPS):
            session.step()
        barrier.wait()
        end_s = time.monotonic() + seconds
        session.send_step()
        while time.monotonic() < end_s:
            session.send_step()
            latencies_ms.append(session.receive().timings_ns["round_trip"] / 1e6)
        session.receive()


def measure(count: int, decoding: str, seconds: float) -> dict[str, Any]:
    options = ["--max-sessions", str(count), "--decoding", decoding]
    latencies_ms: list[list[float]] = [[] for _ in range(count)]
    barrier = threading.Barrier(count)
    with ServerProcess(options) as server:
        threads = [
            threading.Thread(target=drive, args=(server.endpoint, seed, barrier, seconds, mine))
            for seed, mine in enumerate(latencies_ms)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    frames = [len(mine) for mine in latencies_ms]
    every_ms = np.concatenate([np.array(mine) for mine in latencies_ms])
    return {
        "sessions": count,
        "fps": round(sum(frames) / seconds, 2),
        "fps_per_session": round(sum(frames) / seconds / count, 2),
        "share": round(min(frames) * count / sum(frames), 3),
        "latency_ms_p50": round(float(np.percentile(every_ms, 50)), 1),
        "latency_ms_p95": round(float(np.percentile(every_ms, 95)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--decoding", default="raster")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "sessions",
        "machine": describe(),
        "decoding": args.decoding,
        "seconds": args.seconds,
        "runs": [],
    }
    for count in map(int, args.sessions.split(",")):
        run = measure(count, args.decoding, args.seconds)
        report["runs"].append(run)
        print("  ".join(f"{key} {value}" for key, value in run.items()), flush=True)
    first, last = report["runs"][0], report["runs"][-1]
    report["throughput_ratio"] = round(last["fps"] / first["fps"], 3)
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
