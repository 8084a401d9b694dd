"""Engines: exported graphs made ready for one backend on this machine's device.

    DIR/graphs/<form>.onnx, .graph.json    what `export` wrote; `build` exports what is missing
    DIR/<form>.engine.json                 manifest of an engine
    DIR/<form>.plan | .ep                  TensorRT's or torch-tensorrt's file; ONNX Runtime runs
                                           the graph itself

`build` is resumable: an engine that already is what would be built stays, with its verification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from engines.build_options import BuildOptions
from engines.builder import GRAPHS, BuildTask
from engines.builders import BUILDERS
from engines.export import ExportOptions, Source, export
from engines.files import staging
from engines.graphs import DTYPES
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.outputs import said_plainly
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import Form
from sim_stream.runtime.engine_manifest import (
    EngineManifest,
    GraphManifest,
    Host,
    device_of,
    engine_path,
    files_sha256,
    read_engine,
    write,
)


def check_backend(options: BuildOptions, precision: str) -> torch.device:
    """The device that engines will be built on. Raises Unavailable, InvalidInput."""
    if precision not in DTYPES:
        raise InvalidInput("precision", precision, ", ".join(DTYPES))
    backend = BACKENDS[options.backend]
    if backend.version() is None:
        raise Unavailable(f"backend {backend.name} is not installed: {backend.how_to_get}")
    BUILDERS[options.backend].check(options, precision)
    if options.needs_cuda and not torch.cuda.is_available():
        raise Unavailable(f"backend {options.backend} needs a CUDA device and there is none")
    return torch.device("cuda" if options.needs_cuda else "cpu")


def build(
    source: Source, folder: Path, exporting: ExportOptions, options: BuildOptions
) -> dict[Form, EngineManifest]:
    """Exports what is missing and builds the engines. Raises SimStreamError."""
    device = check_backend(options, exporting.precision)
    graphs = export(source, folder / GRAPHS, exporting)
    host = Host.of(source.preset, source.encoder, source.video_decoder, device)
    manifests = {}
    with tqdm(graphs.items(), unit="engine", desc="build") as bar:
        for form, graph in bar:
            bar.set_postfix_str(form.name)
            planned = plan_of(graph, options, device)
            kept = kept_engine(folder, form, planned)
            task = BuildTask(source=source, folder=folder, planned=planned, host=host)
            manifests[form] = kept or _build_form(task)
    return manifests


def plan_of(graph: GraphManifest, options: BuildOptions, device: torch.device) -> EngineManifest:
    """The manifest that the engine will have, but for its own hash and its verification."""
    name, capability = device_of(device)
    backend = BACKENDS[options.backend]
    files: Sequence[str] = [f"{GRAPHS}/{file}" for file in graph.files]
    if backend.suffix is not None:
        files = [graph.form.name + backend.suffix]
    return EngineManifest(
        graph=graph,
        backend=backend.name,
        backend_version=str(backend.version()),
        provider=options.runs_on,
        device=name,
        compute_capability=capability,
        build=BUILDERS[options.backend].built_with(options),
        files=tuple(files),
        engine_sha256="",
        verification={},
    )


def kept_engine(folder: Path, form: Form, planned: EngineManifest) -> EngineManifest | None:
    """The engine that lies there if it is the planned one, and whole."""
    try:
        found = read_engine(engine_path(folder, form))
        sha256 = files_sha256(folder / file for file in found.files)
    except EngineError:
        return None
    expected = replace(planned, engine_sha256=sha256, verification=found.verification)
    return found if found == expected else None


def _build_form(task: BuildTask) -> EngineManifest:
    folder, planned = task.folder, task.planned
    path = engine_path(folder, planned.graph.form)
    with said_plainly(folder):
        path.unlink(missing_ok=True)  # an old manifest must not stand beside a new engine
    with staging(folder, planned.graph.form.name) as stage:
        BUILDERS[planned.backend].make(task, stage)
    sha256 = files_sha256(folder / file for file in planned.files)
    made = replace(planned, engine_sha256=sha256)
    write(path, made)
    return made
