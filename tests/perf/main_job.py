"""The main job end to end, as a user runs it: the demo, paced and free-running.

python -m tests.perf.main_job [--frames N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sim_stream.plain_json import to_json
from tests.perf.machine import describe


def demo(folder: Path, frames: int, pace_fps: float) -> dict[str, Any]:
    """The summary that `sim-stream demo` prints last."""
    command = [sys.executable, "-m", "sim_stream", "demo", "--frames", str(frames)]
    command += ["--pace", str(pace_fps), "--out", str(folder / "demo.mp4")]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            "paced": demo(Path(folder), args.frames, 4.0),
            "free_running": demo(Path(folder), args.frames, 0.0),
        }
    for name, run in runs.items():
        print(f"{name}: {run['fps']} fps, {run['late']} of {run['frames']} steps sent late")
        for stage, ms in run["latency_ms"].items():
            print(
                f"  {stage:14} p50 {ms['p50']:8.1f}  p95 {ms['p95']:8.1f}  p99 {ms['p99']:8.1f} ms"
            )
    keep = ("frames", "fps", "late", "dropped", "approximated", "latency_ms", "model_id")
    report: dict[str, Any] = {"benchmark": "main_job", "machine": machine}
    report |= {name: {key: run[key] for key in keep} for name, run in runs.items()}
    line = to_json(report)
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(line)


if __name__ == "__main__":
    main()
