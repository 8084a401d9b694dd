"""Engines: exported graphs made ready for one backend on this machine's device.

    DIR/graphs/<form>.onnx, .graph.json    what `export` wrote; `build` exports what is missing
    DIR/<form>.engine.json                 manifest of an engine
    DIR/<form>.plan | .ep                  TensorRT's or torch-tensorrt's file; ONNX Runtime runs
                                           the graph itself

`build` is resumable: an engine that already is what would be built stays, with its verification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from engines.export import ExportOptions, Source, export
from engines.files import staging
from engines.graphs import DTYPES, example_input, graph_module
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.outputs import said_plainly
from sim_stream.runtime.engine import Form
from sim_stream.runtime.engine_loader import load_engine
from sim_stream.runtime.engine_manifest import (
    BACKENDS,
    EngineManifest,
    GraphManifest,
    Host,
    device_of,
    engine_path,
    files_sha256,
    installed_version,
    read_engine,
    write,
)
from sim_stream.runtime.onnx_engine import PROVIDERS, refuse_missing

GRAPHS = "graphs"
HOW_TO_GET = {
    "tensorrt": "pip install '.[engines,tensorrt]' in the clone; needs an NVIDIA GPU",
    "torch-tensorrt": "pip install '.[torch-tensorrt]' in the clone; needs an NVIDIA GPU",
    "onnxruntime": "make setup",
}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """`provider`: ONNX Runtime's; `workspace_bytes`, `optimization_level`: TensorRT's."""

    backend: str = "onnxruntime"
    provider: str = "cpu"
    workspace_bytes: int = 4 << 30
    optimization_level: int = 3

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InvalidInput("backend", self.backend, ", ".join(BACKENDS))
        if self.provider not in PROVIDERS:
            raise InvalidInput("provider", self.provider, ", ".join(PROVIDERS))
        if self.workspace_bytes < 1 << 20:
            raise InvalidInput("workspace_bytes", self.workspace_bytes, "2^20 bytes or more")
        if not 0 <= self.optimization_level <= 5:
            raise InvalidInput("optimization_level", self.optimization_level, "0..5")

    @property
    def needs_cuda(self) -> bool:
        return self.backend != "onnxruntime" or self.provider != "cpu"

    def as_built(self) -> dict[str, Any]:
        """What of these options shaped the engine, for its manifest."""
        tensorrt = {"workspace_bytes": self.workspace_bytes}
        if self.backend == "onnxruntime":
            return tensorrt if self.provider == "tensorrt" else {}
        return tensorrt | {"optimization_level": self.optimization_level}


def check_backend(options: BuildOptions, precision: str) -> torch.device:
    """The device that engines will be built on. Raises Unavailable, InvalidInput."""
    if precision not in DTYPES:
        raise InvalidInput("precision", precision, ", ".join(DTYPES))
    if installed_version(options.backend) is None:
        raise Unavailable(
            f"backend {options.backend} is not installed: {HOW_TO_GET[options.backend]}"
        )
    if options.backend == "onnxruntime":
        refuse_missing(options.provider)
        if options.provider == "cpu" and precision != "fp32":
            raise InvalidInput("precision", precision, "fp32: ONNX Runtime's CPU convolutions")
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
            manifests[form] = kept or _build_form(source, folder, planned, host)
    return manifests


def plan_of(graph: GraphManifest, options: BuildOptions, device: torch.device) -> EngineManifest:
    """The manifest that the engine will have, but for its own hash and its verification."""
    name, capability = device_of(device)
    suffix = {"tensorrt": ".plan", "torch-tensorrt": ".ep"}.get(options.backend)
    files: Sequence[str] = [f"{GRAPHS}/{file}" for file in graph.files]
    if suffix is not None:
        files = [graph.form.name + suffix]
    return EngineManifest(
        graph=graph,
        backend=options.backend,
        backend_version=str(installed_version(options.backend)),
        provider=options.provider if options.backend == "onnxruntime" else device.type,
        device=name,
        compute_capability=capability,
        build=options.as_built(),
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


def _build_form(
    source: Source, folder: Path, planned: EngineManifest, host: Host
) -> EngineManifest:
    form, path = planned.graph.form, engine_path(folder, planned.graph.form)
    with said_plainly(folder):
        path.unlink(missing_ok=True)  # an old manifest must not stand beside a new engine
    if planned.backend == "tensorrt":
        from engines.tensorrt_builder import build_plan

        with staging(folder, form.name) as stage:
            graph = folder / GRAPHS / planned.graph.files[0]
            plan = build_plan(graph, planned.graph, planned.build, folder / _cache_name(planned))
            (stage / planned.files[0]).write_bytes(plan)
    elif planned.backend == "torch-tensorrt":
        from engines.torch_tensorrt_builder import compile_to

        module = graph_module(
            form, source.encoder, source.video_decoder, planned.graph.precision
        ).cuda()
        example = example_input(form, source.preset, 2).cuda()
        with staging(folder, form.name) as stage:
            compile_to(stage / planned.files[0], module, example, planned.graph, planned.build)
    else:
        load_engine(folder, planned, host)  # ONNX Runtime takes the graph, or says why not
    sha256 = files_sha256(folder / file for file in planned.files)
    made = replace(planned, engine_sha256=sha256)
    write(path, made)
    return made


def _cache_name(planned: EngineManifest) -> str:
    """A timing cache holds for one GPU model and one version of TensorRT."""
    gpu = "_".join(planned.device.split())
    return f"timing-{gpu}-{planned.backend_version}.cache"
