"""Engines by TensorRT: a plan from a graph. What calls TensorRT is `tensorrt_builder`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engines.build_options import BuildOptions
from engines.builder import Builder, BuildTask
from sim_stream.runtime.engine_manifest import EngineManifest, Host
from sim_stream.runtime.tensorrt_backend import TENSORRT


def built_with(options: BuildOptions) -> Mapping[str, Any]:
    return {
        "workspace_bytes": options.workspace_bytes,
        "optimization_level": options.optimization_level,
    }


def make(task: BuildTask, stage: Path) -> None:
    from engines.tensorrt_builder import build_plan

    planned = task.planned
    cache = task.folder / cache_name(planned)
    plan = build_plan(task.graph, planned.graph, planned.build, cache)
    (stage / planned.files[0]).write_bytes(plan)


def cache_name(planned: EngineManifest) -> str:
    """A timing cache holds for one GPU model and one version of TensorRT."""
    gpu = "_".join(planned.device.split())
    return f"timing-{gpu}-{planned.backend_version}.cache"


def layer_times_ms(path: Path, manifest: EngineManifest, host: Host, x: Tensor) -> dict[str, float]:
    from sim_stream.runtime.tensorrt_engine import TensorRTEngine

    return TensorRTEngine(path, manifest.graph).layer_times_ms(x)


BY_TENSORRT = Builder(
    backend=TENSORRT,
    built_with=built_with,
    make=make,
    layer_times_ms=layer_times_ms,
)
