"""The manifests beside graphs and engines: what they are, what they were made from and for.

    <form>.graph.json    an exported graph: interface, precision, hashes of weights and of the file
    <form>.engine.json   a built engine: its graph, backend, device, build options, verification

`refuse_mismatch` compares an engine with what it is about to run with and names both sides of every
difference. Reading an engine itself is its runner's business.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

import torch
from torch import Tensor

from sim_stream.config import Preset, from_dict, to_dict
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.files import escapes, read_json, require_regular, sha256_of
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.plain_json import to_json
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import ENCODER, VIDEO_DECODER, Form, TensorSpec, interface

FORMAT = 1
GRAPH_PRECISIONS = ("fp32", "bf16", "fp16")
MAX_FILE_BYTES, MAX_BATCH_BUILT = 16 << 30, 64


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
    manifest: EngineManifest = _from(EngineManifest, {**values, "graph": graph}, path)
    if manifest.backend not in BACKENDS:
        raise EngineError(
            f"{path}: backend is {manifest.backend[:80]!r}; allowed: {', '.join(BACKENDS)}"
        )
    _check_files(manifest.files, path)
    _check_build(manifest, path)
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    if not (path.exists() or path.is_symlink()):
        raise EngineError(f"{path}: no such file; `python -m engines build` makes it")
    values = read_json(path, EngineError)
    if values.get("format") != FORMAT:
        raise EngineError(f"{path}: not a manifest of format {FORMAT}")
    return values


def _graph_from(values: Any, path: Path) -> GraphManifest:
    if not isinstance(values, dict):
        raise EngineError(f"{path}: says nothing of its graph")
    parts = {"form": Form, "input": TensorSpec, "output": TensorSpec}
    made = {key: _from(cls, values.get(key), path) for key, cls in parts.items()}
    manifest: GraphManifest = _from(GraphManifest, {**values, **made}, path)
    if manifest.precision not in GRAPH_PRECISIONS or not 1 <= manifest.max_batch <= MAX_BATCH_BUILT:
        raise EngineError(
            f"{path}: precision is {manifest.precision[:80]!r}, max_batch {manifest.max_batch}; "
            f"allowed: {', '.join(GRAPH_PRECISIONS)}, and 1..{MAX_BATCH_BUILT}"
        )
    _check_files(manifest.files, path)
    return manifest


def _check_files(files: tuple[str, ...], path: Path) -> None:
    """Raises EngineError where a manifest names no file, or one outside its own folder."""
    names = [name for file in files for name in PurePosixPath(file).parts]
    if not files or not names or any(map(escapes, names)):
        raise EngineError(f"{path}: files are {str(files)[:200]}; allowed: files in its folder")


def _check_build(manifest: EngineManifest, path: Path) -> None:
    """Raises EngineError where a build option that the runtime needs is no number."""
    for name, needing in BACKENDS[manifest.backend].numbers.items():
        given, needed = manifest.build.get(name), manifest.provider in needing
        if (needed or given is not None) and not _is_number(given):
            raise EngineError(f"{path}: build.{name} is {str(given)[:80]}; allowed: a whole number")
    passed = manifest.verification.get("passed", False)
    if not isinstance(passed, bool):
        raise EngineError(f"{path}: verification.passed is {str(passed)[:80]!r}; allowed: a bool")


def _from(cls: type[Any], values: Any, path: Path) -> Any:
    """A dataclass whose every field is of its type, by name."""
    try:
        made = from_dict(cls, values if isinstance(values, dict) else {})
    except InvalidInput as error:
        raise EngineError(f"{path}: {error}") from error
    faults = [
        f"{cls.__name__}.{name} is {str(getattr(made, name))[:80]!r}; allowed: {_SAYS[kind]}"
        for name, kind in get_type_hints(cls).items()
        if kind in _HOLDS and not _HOLDS[kind](getattr(made, name))
    ]
    if faults:
        raise EngineError(f"{path}: {'; '.join(faults)}")
    return made


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


def _are(holds: Callable[[Any], bool], value: object) -> bool:
    return isinstance(value, tuple) and all(map(holds, value))


# What a field of each type may hold; one whose type is a dataclass was checked when it was made.
_HOLDS: Mapping[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    int: _is_number,
    tuple[int, ...]: partial(_are, _is_number),
    tuple[str, ...]: partial(_are, lambda value: isinstance(value, str)),
    Mapping[str, Any]: lambda value: isinstance(value, dict),
}
_SAYS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    tuple[int, ...]: "whole numbers",
    tuple[str, ...]: "texts",
    Mapping[str, Any]: "an object",
}


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
        if require_regular(path, EngineError) > MAX_FILE_BYTES:
            raise EngineError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes")
        digest.update(bytes.fromhex(sha256_of(path, EngineError)))
    return digest.hexdigest()


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
            BACKENDS[manifest.backend].version() or "not installed",
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
