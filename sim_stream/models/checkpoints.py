"""A weights folder: safetensors files and a manifest that says what they are.

    manifest.json             format, preset, model_id, configuration, files with their SHA-256, how
                              the weights were made, held-out figures
    vq_model.safetensors, world_model.safetensors, video_decoder.safetensors

A folder holds one part or more; a large part lies in shards (`world_model.00001.safetensors`).
Loading is strict: a hash, key or shape that does not match is refused, all mismatches named at
once. Each tensor goes from the mapped file to its device and type: there never is a second copy of
a part. Foreign formats are not known here (`conversion.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sim_stream.config import Preset, to_dict
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.expects import NOTHING_SAID, Expects
from sim_stream.files import read_json, require_regular
from sim_stream.files import sha256_of as sha256_of_file
from sim_stream.models import weights_manifest
from sim_stream.models.formats.safetensors_files import MAX_HEADER_BYTES, file_tensors
from sim_stream.models.formats.source import Shape, listed
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import PIXEL_RANGES, VQModel
from sim_stream.models.weights_manifest import FORMAT, PARTS
from sim_stream.models.world_model import WorldModel
from sim_stream.plain_json import to_json

MANIFEST = "manifest.json"
# What a manifest must repeat of the preset: a change in any of these makes weights unusable.
CONFIGURATION = ("prompt", "actions_per_frame", "vq", "world_model", "video_decoder", "action_bins")
# Which of that each part depends on.
NEEDS = {
    "vq_model": ("vq",),
    "world_model": ("prompt", "actions_per_frame", "world_model", "action_bins"),
    "video_decoder": ("vq", "video_decoder"),
}
MAX_VALUE_BYTES = 8  # of a stored parameter: fp64


@dataclass(frozen=True, kw_only=True)
class Loaded:
    vq_model: VQModel
    world_model: WorldModel
    video_decoder: VideoDecoder
    prompt_ids: tuple[int, ...]
    model_id: str
    sha256: str
    inflated: bool = False  # the video decoder is the image decoder, untrained in time
    expects: Expects = NOTHING_SAID


def weights_dir(preset_name: str, weights: Path | str | None) -> Path:
    """The given folder, or the one shipped with the package for that preset."""
    if weights is not None:
        return Path(weights)
    shipped = Path(__file__).parent.parent / "weights" / preset_name
    if not shipped.is_dir():
        raise CheckpointError(
            f"preset {preset_name} ships no weights: give a folder with --weights (made by "
            "`sim-stream weights convert` or `python -m train pack`)"
        )
    return shipped


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a weights folder, its fields checked. Raises CheckpointError."""
    path = folder / MANIFEST
    if not (path.exists() or path.is_symlink()):
        raise CheckpointError(f"{path}: no such file; a weights folder has a manifest")
    manifest = read_json(path)
    weights_manifest.check(manifest, str(path))
    # null is as good as none
    return {name: value for name, value in manifest.items() if value is not None}


def expects_of(folder: Path, manifest: Mapping[str, Any]) -> Expects:
    """What a manifest says that its weights expect, if anything. Raises CheckpointError."""
    try:
        return Expects.of_manifest(manifest.get("expects", {}))
    except InvalidInput as error:
        raise CheckpointError(f"{folder}: the manifest's expects: {error}") from error


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def joined_sha256(hashes: Iterable[str]) -> str:
    """One hash for many."""
    return sha256_of("".join(hashes).encode())


def folder_sha256(manifest: Mapping[str, Any]) -> str:
    """One hash for a whole folder: that of its parts' hashes in order."""
    files = manifest["files"]
    return joined_sha256(files[part]["sha256"] for part in PARTS if part in files)


def shards_of(folder: Path, part: str, manifest: Mapping[str, Any]) -> dict[Path, str]:
    """A part's files and the hashes that the manifest says they have. Raises CheckpointError."""
    if part not in manifest["files"]:
        there = ", ".join(manifest["files"])
        raise CheckpointError(f"{folder}: holds no {part}, only {there}")
    entry = manifest["files"][part]
    shards = entry.get("shards")
    if shards is None:
        return {folder / f"{part}.safetensors": entry["sha256"]}
    if joined_sha256(shards.values()) != entry["sha256"]:
        raise CheckpointError(f"{folder}: the manifest's shards of {part} contradict themselves")
    return {folder / name: sha256 for name, sha256 in shards.items()}


def check_sizes(folder: Path, part: str, manifest: Mapping[str, Any], preset: Preset) -> None:
    """Raises CheckpointError where a part's files are no files, or larger than the part can be:
    before anything of them is hashed."""
    shards = shards_of(folder, part, manifest)
    there = sum(require_regular(path) for path in shards)
    parameters = parameters_of(preset, part)
    most = MAX_VALUE_BYTES * parameters + MAX_HEADER_BYTES * len(shards)
    if there > most:
        raise CheckpointError(
            f"{folder}: {part} has {there:,} bytes; {preset.name}'s {parameters:,} values take "
            f"{most:,} at most"
        )


def part_tensors(
    folder: Path, part: str, manifest: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """A part's tensors, memory-mapped; a file's only after its hash was found to be right.

    Hashes are computed ahead on two threads. Raises CheckpointError.
    """
    shards = shards_of(folder, part, manifest)
    with ThreadPoolExecutor(max_workers=2) as pool:
        hashes = {path: pool.submit(sha256_of_file, path) for path in shards}
        try:
            for path, expected in shards.items():
                found = hashes[path].result()
                if found != expected:
                    raise CheckpointError(
                        f"{path}: SHA-256 is {found}, the manifest says {expected}: the file was "
                        "changed or cut off"
                    )
                yield from file_tensors(path)
        finally:
            pool.shutdown(cancel_futures=True)


def read_part(folder: Path, part: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of one part."""
    return dict(part_tensors(folder, part, manifest))


def verify(folder: Path) -> dict[str, Any]:
    """Checks manifest and hashes of a folder; gives the manifest. Raises CheckpointError."""
    manifest = read_manifest(folder)
    for part in manifest["files"]:
        for _ in part_tensors(folder, part, manifest):
            pass
    return manifest


def make_part(preset: Preset, part: str) -> nn.Module:
    """That part of a preset on the meta device: shapes without memory."""
    with torch.device("meta"):
        if part == "vq_model":
            return VQModel(preset.vq)
        if part == "world_model":
            return WorldModel(preset.world_model)
        return VideoDecoder(preset.vq, preset.video_decoder)


@lru_cache(maxsize=32)
def parameters_of(preset: Preset, part: str) -> int:
    """Values that a part stores."""
    return sum(tensor.numel() for tensor in make_part(preset, part).state_dict().values())


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def fill(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Puts a copy of each tensor on the device into a model (on meta, say), one after the other.

    Raises CheckpointError that names every missing, extra and misshapen tensor.
    """
    expected, state, faults = shapes_of(model), {}, []
    for key, tensor in tensors:
        shape = tuple(tensor.shape)
        if key not in expected:
            faults.append(f"extra {key} {shape}")
        elif shape != expected[key]:
            faults.append(f"{key} has shape {shape}, expected {expected[key]}")
            del expected[key]
        else:
            state[key] = tensor.to(device=device, dtype=dtype, copy=True)
    faults += [f"missing {key} {shape}" for key, shape in expected.items() if key not in state]
    if faults:
        raise CheckpointError(f"{name}: {len(faults)} tensors do not match: {listed(faults)}")
    model.load_state_dict(state, assign=True)


def load_strict(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copies a state into a model in fp32; every mismatch is named at once."""
    fill(model, state.items(), name)


def config_of(preset: Preset) -> dict[str, Any]:
    """The part of a preset that its weights depend on, as JSON values."""
    values = to_dict(preset)
    return json.loads(to_json({key: values[key] for key in CONFIGURATION}))


def check_config(folder: Path, manifest: Mapping[str, Any], preset: Preset, part: str) -> None:
    """Raises CheckpointError where a part was made for another configuration."""
    expected, found = config_of(preset), manifest["config"]
    wrong = [key for key in NEEDS[part] if found.get(key) != expected[key]]
    if wrong:
        differences = "; ".join(f"{k}: {found.get(k)} against {expected[k]}" for k in wrong)
        raise CheckpointError(f"{folder}: made for another configuration: {differences}")
    most = preset.world_model.text_vocab_size
    if part == "world_model" and any(i >= most for i in manifest.get("prompt_ids", ())):
        raise CheckpointError(f"{folder}: prompt_ids beyond the vocabulary of {most:,}")
    check_sizes(folder, part, manifest, preset)


def load_part(
    folder: Path,
    manifest: Mapping[str, Any],
    preset: Preset,
    part: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tensors: Iterable[tuple[str, Tensor]] | None = None,
) -> nn.Module:
    """One part, on its device and in its type. `tensors` take the place of the folder's own."""
    check_config(folder, manifest, preset, part)
    model = make_part(preset, part)
    own = part_tensors(folder, part, manifest) if tensors is None else tensors
    fill(model, own, f"{folder.name}/{part}", device=device, dtype=dtype)
    if isinstance(model, VQModel | VideoDecoder):
        model.pixel_range = manifest["files"][part].get("pixel_range", "signed")
        if model.pixel_range not in PIXEL_RANGES:
            raise CheckpointError(f"{folder}: pixel range {model.pixel_range!r} of {part}")
    return model


def load(folder: Path, preset: Preset) -> Loaded:
    """The three models of a folder in fp32. Raises CheckpointError where a thing does not match."""
    manifest = read_manifest(folder)
    for part in PARTS:  # all configurations before the first tensor
        check_config(folder, manifest, preset, part)
    models = {part: load_part(folder, manifest, preset, part) for part in PARTS}
    return Loaded(
        **models,  # type: ignore[arg-type]
        prompt_ids=tuple(manifest.get("prompt_ids", ())),
        model_id=manifest["model_id"],
        sha256=folder_sha256(manifest),
        expects=expects_of(folder, manifest),
    )


def save(
    folder: Path, preset: Preset, models: Mapping[str, nn.Module], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes a weights folder, each file atomically and the manifest last; gives the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        state = {k: v.detach().half().contiguous() for k, v in models[part].state_dict().items()}
        partial = folder / f".{part}.partial"
        try:
            save_file(state, partial)
            partial.chmod(0o644)
            os.replace(partial, folder / f"{part}.safetensors")
        finally:
            partial.unlink(missing_ok=True)
        files[part] = {
            "sha256": sha256_of_file(folder / f"{part}.safetensors"),
            "parameters": sum(v.numel() for v in state.values()),
        }
        if isinstance(model := models[part], VQModel | VideoDecoder):
            files[part]["pixel_range"] = model.pixel_range
    return write_manifest(folder, preset, files, about)


def write_manifest(
    folder: Path, preset: Preset, files: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes and gives a folder's manifest; nothing is half-written under its name."""
    manifest = {
        "format": FORMAT,
        "preset": preset.name,
        "config": config_of(preset),
        "files": files,
        **about,
    }
    partial = folder / ".manifest.partial"
    partial.write_text(to_json(manifest, indent=1) + "\n")
    os.replace(partial, folder / MANIFEST)
    return manifest
