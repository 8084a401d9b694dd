"""Engines by ONNX Runtime, which runs the graphs themselves: nothing is built, only tried."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engines.build_options import BuildOptions
from engines.builder import Builder, BuildTask
from sim_stream.errors import EngineError, InvalidInput
from sim_stream.runtime.engine_loader import load_engine
from sim_stream.runtime.engine_manifest import EngineManifest, Host
from sim_stream.runtime.onnx_backend import ONNX_RUNTIME
from sim_stream.runtime.onnx_engine import OnnxEngine, refuse_missing


def built_with(options: BuildOptions) -> Mapping[str, Any]:
    tensorrt = {"workspace_bytes": options.workspace_bytes}
    return tensorrt if options.runs_on == "tensorrt" else {}


def check(options: BuildOptions, precision: str) -> None:
    refuse_missing(options.runs_on)
    if options.runs_on == "cpu" and precision != "fp32":
        raise InvalidInput("precision", precision, "fp32: ONNX Runtime's CPU convolutions")


def make(task: BuildTask, stage: Path) -> None:
    load_engine(task.folder, task.planned, task.host)  # it takes the graph, or says why not


def layer_times_ms(path: Path, manifest: EngineManifest, host: Host, x: Tensor) -> dict[str, float]:
    """From its trace of the second of two runs; fused operators have new names."""
    with tempfile.TemporaryDirectory() as trace:
        engine = OnnxEngine(
            path,
            manifest.graph,
            provider=manifest.provider,
            threads=host.threads,
            profile_to=Path(trace) / "trace",
        )
        for _ in range(2):
            engine.run(x)
        events = json.loads(Path(engine.session.end_profiling()).read_text())
    runs = [e for e in events if e.get("cat") == "Session" and e["name"] == "model_run"]
    start, end = runs[-1]["ts"], runs[-1]["ts"] + runs[-1]["dur"]
    found: dict[str, float] = {}
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if kernel and start <= event["ts"] <= end:
            name = f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"
            found[name] = found.get(name, 0.0) + event["dur"] / 1e3
    if not found:
        raise EngineError(f"{path}: ONNX Runtime traced no operator")
    return found


BY_ONNX_RUNTIME = Builder(
    backend=ONNX_RUNTIME,
    built_with=built_with,
    check=check,
    make=make,
    layer_times_ms=layer_times_ms,
)
