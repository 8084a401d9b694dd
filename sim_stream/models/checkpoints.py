"""A weights folder: three safetensors files and a manifest that says what they are.

    manifest.json             format, preset, model_id, configuration, files with their SHA-256, how
                              the weights were made, held-out figures
    vq_model.safetensors, world_model.safetensors, video_decoder.safetensors

Loading is strict: a hash, key or shape that does not match is refused, all mismatches named at
once. Weights are stored in half precision and loaded as fp32. Foreign formats (diffusers, LWM,
PEFT) are not known here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from sim_stream.config import Preset, to_dict
from sim_stream.errors import CheckpointError
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel

FORMAT = 1
PARTS = ("vq_model", "world_model", "video_decoder")
# What a manifest must repeat of the preset: a change in any of these makes weights unusable.
CONFIGURATION = ("prompt", "actions_per_frame", "vq", "world_model", "video_decoder", "action_bins")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    vq_model: VQModel
    world_model: WorldModel
    video_decoder: VideoDecoder
    prompt_ids: tuple[int, ...]
    model_id: str
    sha256: str


def weights_dir(preset_name: str, weights: Path | str | None) -> Path:
    """The given folder, or the one shipped with the package for that preset."""
    if weights is not None:
        return Path(weights)
    shipped = Path(__file__).parent.parent / "weights" / preset_name
    if not shipped.is_dir():
        raise CheckpointError(
            f"preset {preset_name} ships no weights: give a folder with --weights (made by "
            "`python -m train pack`)"
        )
    return shipped


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a weights folder. Raises CheckpointError."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; a weights folder has a manifest") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a manifest of format {FORMAT}")
    missing = sorted({"preset", "model_id", "config", "files"} - set(manifest))
    absent = [part for part in PARTS if part not in manifest.get("files", {})]
    if missing or absent:
        raise CheckpointError(f"{path}: missing fields {missing}, files {absent}")
    return manifest


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def folder_sha256(manifest: Mapping[str, Any]) -> str:
    """One hash for a whole folder: that of its parts' hashes in order."""
    joined = "".join(manifest["files"][part]["sha256"] for part in PARTS)
    return sha256_of(joined.encode())


def read_part(folder: Path, part: str, manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """One part's tensors, after its file's hash was found to be the manifest's."""
    path, expected = folder / f"{part}.safetensors", manifest["files"][part]["sha256"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    found = sha256_of(data)
    if found != expected:
        raise CheckpointError(
            f"{path}: SHA-256 is {found}, the manifest says {expected}: the file was changed or "
            "cut off"
        )
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error


def verify(folder: Path) -> dict[str, Any]:
    """Checks manifest and hashes of a folder; gives the manifest. Raises CheckpointError."""
    manifest = read_manifest(folder)
    for part in PARTS:
        read_part(folder, part, manifest)
    return manifest


def load_strict(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Copies a state into a model; every missing, extra and misshapen tensor is named."""
    own = model.state_dict()
    faults = [f"missing {key} {tuple(own[key].shape)}" for key in own if key not in state]
    faults += [f"extra {key} {tuple(state[key].shape)}" for key in state if key not in own]
    faults += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if faults:
        raise CheckpointError(f"{name}: {len(faults)} tensors do not match: " + "; ".join(faults))
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)


def config_of(preset: Preset) -> dict[str, Any]:
    """The part of a preset that its weights depend on, as JSON values."""
    values = to_dict(preset)
    return json.loads(json.dumps({key: values[key] for key in CONFIGURATION}))


def load(folder: Path, preset: Preset) -> Loaded:
    """The three models of a folder. Raises CheckpointError where anything does not match."""
    manifest = read_manifest(folder)
    expected, found = config_of(preset), manifest["config"]
    wrong = [key for key in CONFIGURATION if found.get(key) != expected[key]]
    if wrong:
        differences = "; ".join(f"{k}: {found.get(k)} against {expected[k]}" for k in wrong)
        raise CheckpointError(f"{folder}: made for another configuration: {differences}")
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "vq_model": VQModel(preset.vq),
            "world_model": WorldModel(preset.world_model),
            "video_decoder": VideoDecoder(preset.vq, preset.video_decoder),
        }
    for part, model in models.items():
        load_strict(model, read_part(folder, part, manifest), f"{folder.name}/{part}")
    return Loaded(
        **models,  # type: ignore[arg-type]
        prompt_ids=tuple(manifest.get("prompt_ids", ())),
        model_id=manifest["model_id"],
        sha256=folder_sha256(manifest),
    )


def save(
    folder: Path, preset: Preset, models: Mapping[str, nn.Module], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes a weights folder, each file atomically and the manifest last; gives the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part in PARTS:
        state = {k: v.detach().half().contiguous() for k, v in models[part].state_dict().items()}
        partial = folder / f".{part}.partial"
        save_file(state, partial)
        partial.chmod(0o644)
        os.replace(partial, folder / f"{part}.safetensors")
        files[part] = {
            "sha256": sha256_of((folder / f"{part}.safetensors").read_bytes()),
            "parameters": sum(v.numel() for v in state.values()),
        }
    manifest = {
        "format": FORMAT,
        "preset": preset.name,
        "config": config_of(preset),
        "files": files,
        **about,
    }
    partial = folder / ".manifest.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(partial, folder / "manifest.json")
    return manifest
