"""How a backend's engines are made: the counterpart of `sim_stream.runtime.backend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engines.build_options import BuildOptions
from engines.export import Source
from sim_stream.runtime.backend import Backend
from sim_stream.runtime.engine_manifest import EngineManifest, Host

GRAPHS = "graphs"  # their folder in a folder of engines


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """An engine to be made. `planned`: its manifest, but for hash and verification."""

    source: Source
    folder: Path
    planned: EngineManifest
    host: Host

    @property
    def graph(self) -> Path:
        return self.folder / GRAPHS / self.planned.graph.files[0]


@dataclass(frozen=True, kw_only=True)
class Builder:
    """`built_with`: what of the options shapes an engine, for its manifest.

    `check`: raises Unavailable or InvalidInput where it cannot build with those options and that
    precision here.
    `make`: writes the engine's file into a folder, or where it has none sees that the graph can be
    loaded. Raises EngineError.
    `layer_times_ms`: milliseconds of every layer in one run of an engine; None: it does not tell.
    """

    backend: Backend
    built_with: Callable[[BuildOptions], Mapping[str, Any]]
    check: Callable[[BuildOptions, str], None] = lambda options, precision: None
    make: Callable[[BuildTask, Path], None]
    layer_times_ms: Callable[[Path, EngineManifest, Host, Tensor], dict[str, float]] | None = None
