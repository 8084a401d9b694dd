"""The manifests beside graphs and engines: what they are, what they were made from and for.

    <form>.graph.json    an exported graph: interface, precision, hashes of weights and of the file
    <form>.engine.json   a built engine: its graph, backend, device, build options, verification

`refuse_mismatch` compares an engine with what it is about to run with and names both sides of every
difference. Reading an engine itself is its runner's business.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sim_stream.config import Preset, from_dict, to_dict
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.plain_json import to_json
from sim_stream.runtime.engine import ENCODER, VIDEO_DECODER, Form, TensorSpec, interface

FORMAT = 1
BACKENDS = ("onnxruntime", "tensorrt", "torch-tensorrt")


@dataclass(frozen=True, kw_only=True)
class GraphManifest:
    """An exported graph. `files`: the ONNX file first, then external data."""

    preset: str
    config: Mapping[str, Any]
    form: Form
    input: TensorSpec
    output: TensorSpec
    max_batch: int
    precision: str
    opset: int
    exporter: str
    weights_sha256: str
    graph_sha256: str
    files: tuple[str, ...]
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class EngineManifest:
    """A built engine. `compute_capability` is empty on a CPU; `verification` until verified."""

    graph: GraphManifest
    backend: str
    backend_version: str
    provider: str
    device: str
    compute_capability: tuple[int, ...]
    build: Mapping[str, Any]
    files: tuple[str, ...]
    engine_sha256: str
    verification: Mapping[str, Any]
    format: int = FORMAT


def config_of(preset: Preset) -> dict[str, Any]:
    """What of a preset shapes its engines, as JSON values."""
    values = {"vq": to_dict(preset.vq), "video_decoder": to_dict(preset.video_decoder)}
    return json.loads(to_json(values))


def graph_path(folder: Path, form: Form) -> Path:
    return folder / f"{form.name}.graph.json"


def engine_path(folder: Path, form: Form) -> Path:
    return folder / f"{form.name}.engine.json"


def write(path: Path, manifest: GraphManifest | EngineManifest) -> None:
    """Atomically, so that a manifest is whole or absent. Raises Unavailable."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(to_json(to_dict(manifest), indent=1) + "\n")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Unavailable(f"{path}: cannot be written: {error.strerror}") from error


def read_graph(path: Path) -> GraphManifest:
    """Raises EngineError."""
    return _graph_from(_read_json(path), path)


def read_engine(path: Path) -> EngineManifest:
    """Raises EngineError."""
    values = _read_json(path)
    graph = _graph_from(values.get("graph"), path)
    return _from(EngineManifest, {**values, "graph": graph}, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise EngineError(f"{path}: no such file; `python -m engines build` makes it") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise EngineError(f"{path}: not a manifest of format {FORMAT}")
    return values


def _graph_from(values: Any, path: Path) -> GraphManifest:
    if not isinstance(values, dict):
        raise EngineError(f"{path}: says nothing of its graph")
    parts = {"form": Form, "input": TensorSpec, "output": TensorSpec}
    made = {key: _from(cls, values.get(key), path) for key, cls in parts.items()}
    return _from(GraphManifest, {**values, **made}, path)


def _from(cls: type[Any], values: Any, path: Path) -> Any:
    try:
        return from_dict(cls, values if isinstance(values, dict) else {})
    except InvalidInput as error:
        raise EngineError(f"{path}: {error}") from error


def weights_sha256(model: VQModel | VideoDecoder) -> str:
    """Hash of the fp32 values and names of the weights that the model's engine holds.

    Of a VQModel only the encoder's. Take it before upsampling is folded or a type changed.
    """
    state: Mapping[str, Tensor] = model.state_dict()
    if isinstance(model, VQModel):
        state = {k: v for k, v in state.items() if k.split(".")[0] not in _DECODER_ONLY}
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


_DECODER_ONLY = ("decoder", "post_quant_conv")


def files_sha256(paths: Iterable[Path]) -> str:
    """One hash for some files in order. Raises EngineError where one is missing."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise EngineError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def installed_version(backend: str) -> str | None:
    """Version of a backend here; None: not installed. Raises InvalidInput."""
    if backend not in BACKENDS:
        raise InvalidInput("backend", backend, ", ".join(BACKENDS))
    if backend == "torch-tensorrt":  # importing it beside CPU torch raises a bare Exception
        try:
            return metadata.version(backend)
        except metadata.PackageNotFoundError:
            return None
    if importlib.util.find_spec(backend) is None:
        return None
    # Asked of the module: the distribution's name differs with the CUDA version.
    return str(importlib.import_module(backend).__version__)


def device_of(device: torch.device) -> tuple[str, tuple[int, ...]]:
    """Name and compute capability that an engine is bound to. A CPU is any CPU."""
    if device.type != "cuda":
        return device.type, ()
    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)


@dataclass(frozen=True, kw_only=True)
class Host:
    """What engines are to run with. `weights`: `weights_sha256` of each part."""

    preset: Preset
    device: torch.device
    weights: Mapping[str, str]
    threads: int = 1

    @classmethod
    def of(
        cls, preset: Preset, encoder: VQModel, video_decoder: VideoDecoder, device: torch.device
    ) -> Host:
        hashes = {ENCODER: weights_sha256(encoder), VIDEO_DECODER: weights_sha256(video_decoder)}
        return cls(preset=preset, device=device, weights=hashes, threads=torch.get_num_threads())


def refuse_mismatch(manifest: EngineManifest, path: Path, form: Form, host: Host) -> None:
    """Raises EngineError that names both sides of every difference, before anything runs."""
    graph = manifest.graph
    name, capability = device_of(host.device)
    takes, gives = interface(host.preset.vq, form)
    sides = {
        "form": (graph.form, form),
        "configuration": (graph.config, config_of(host.preset)),
        "input": (graph.input, takes),
        "output": (graph.output, gives),
        "weights": (graph.weights_sha256, host.weights[form.part]),
        f"{manifest.backend} version": (
            manifest.backend_version,
            installed_version(manifest.backend) or "not installed",
        ),
        "device": (manifest.device, name),
        "compute capability": (manifest.compute_capability, capability),
        "file's SHA-256": (
            manifest.engine_sha256,
            files_sha256(path.parent / file for file in manifest.files),
        ),
    }
    faults = [
        f"{what}: the engine's is {made}, here it is {here}"
        for what, (made, here) in sides.items()
        if made != here
    ]
    if faults:
        raise EngineError(f"{path}: not made for this: " + "; ".join(faults))
