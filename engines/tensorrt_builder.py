"""A TensorRT plan from a graph, by polygraphy's loaders: the only module here that calls TensorRT.

Networks are strongly typed: a tensor has the type the graph gives it. Not yet run on a GPU; see
`sim_stream.runtime.tensorrt_engine` for how it is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorrt as trt
from polygraphy.backend.trt import (
    CreateConfig,
    Profile,
    engine_bytes_from_network,
    network_from_onnx_path,
)
from polygraphy.exception import PolygraphyException
from tqdm import tqdm

from sim_stream.errors import EngineError
from sim_stream.runtime.engine_manifest import GraphManifest


def build_plan(
    path: Path, graph: GraphManifest, options: Mapping[str, Any], timing_cache: Path
) -> bytes:
    """The plan for batches of 1..max_batch, fastest for one. Raises EngineError."""
    profile = input_profile(graph.input.name, graph.input.shape, graph.max_batch)
    with BuildProgress() as progress:
        config = builder_config([profile], options, timing_cache, progress)
        try:
            network = network_from_onnx_path(str(path), strongly_typed=True)
            plan = engine_bytes_from_network(network, config, save_timing_cache=str(timing_cache))
        except PolygraphyException as error:
            if progress.interrupted:
                raise KeyboardInterrupt from error
            raise EngineError(f"{path}: TensorRT cannot build it: {error}") from error
    return bytes(plan)


def input_profile(name: str, shape: tuple[int, ...], max_batch: int) -> Profile:
    """Batches of 1..max_batch, fastest for one."""
    return Profile().add(name, min=(1, *shape), opt=(1, *shape), max=(max_batch, *shape))


def builder_config(
    profiles: list[Profile], options: Mapping[str, Any], timing_cache: Path, progress: BuildProgress
) -> CreateConfig:
    """What polygraphy makes a builder's configuration of."""
    return CreateConfig(
        profiles=profiles,
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: options["workspace_bytes"]},
        builder_optimization_level=options["optimization_level"],
        load_timing_cache=str(timing_cache),
        profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
        progress_monitor=progress,
    )


class BuildProgress(trt.IProgressMonitor):
    """TensorRT's nested phases as nested bars. Ctrl-C stops the build at its next step."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self._bars: dict[str, tqdm] = {}
        self.interrupted = False

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        depth = 1 + sum(1 for _ in self._bars)
        self._bars[phase_name] = tqdm(
            total=num_steps, desc=phase_name, position=depth, leave=False, unit="step"
        )

    def step_complete(self, phase_name: str, step: int) -> bool:
        """False ends the build."""
        bar = self._bars.get(phase_name)
        try:
            if bar is not None:
                bar.update(step + 1 - bar.n)
        except KeyboardInterrupt:  # must not travel through TensorRT's frames
            self.interrupted = True
        return not self.interrupted

    def phase_finish(self, phase_name: str) -> None:
        bar = self._bars.pop(phase_name, None)
        if bar is not None:
            bar.close()

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(self, *_: object) -> None:
        for phase_name in list(self._bars):
            self.phase_finish(phase_name)
