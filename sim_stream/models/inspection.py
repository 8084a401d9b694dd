"""What a path is, said without loading it: format, part, shapes, types, conventions, preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim_stream.config import PRESETS
from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints, pixel_range
from sim_stream.models.conversion import faults_of, stated_range
from sim_stream.models.formats import identify, peft_adapter
from sim_stream.models.formats.source import Source, listed
from sim_stream.models.vq_model import VQModel
from sim_stream.video import SAMPLE


def inspect(path: Path, *, video: Path = SAMPLE) -> list[dict[str, Any]]:
    """One report for each thing that lies at `path`. Raises InvalidInput, CheckpointError."""
    return [_inspect(member, video) for member in identify.members(path)]


def _inspect(path: Path, video: Path) -> dict[str, Any]:
    kind = identify.kind_of(path)
    report: dict[str, Any] = {"path": str(path), "kind": kind}
    if kind == identify.TOKENIZER:
        return report | {"bytes": path.stat().st_size}
    if kind == peft_adapter.KIND:
        return report | peft_adapter.describe(path)
    if kind == identify.WEIGHTS_FOLDER:
        manifest = checkpoints.read_manifest(path)
        keep = ("model_id", "preset", "files", "prompt_ids", "tokenizer")
        return report | {name: manifest[name] for name in keep if name in manifest}
    return report | describe(identify.source_of(path), video)


def describe(source: Source, video: Path) -> dict[str, Any]:
    """A foreign part, and the preset that it fits or comes closest to, with all that differs."""
    faults = {p.name: faults_of([source], p, source.part) for p in PRESETS.values()}
    preset = min(faults, key=lambda name: len(faults[name]))
    report: dict[str, Any] = {
        "part": source.part,
        "parameters": source.parameters,
        "tensors": len(source.shapes),
        "dtypes": dict(source.dtypes),
        **source.facts,
        "preset": preset if not faults[preset] else None,
        "transforms": list(source.transforms),
        "shapes": {key: list(shape) for key, shape in source.shapes.items()},
    }
    if faults[preset]:
        report |= {"closest_preset": preset, "differs": listed(faults[preset])}
    elif source.part == "vq_model":
        report |= _pixel_range(source, preset, video)
    return report


def _pixel_range(source: Source, preset_name: str, video: Path) -> dict[str, Any]:
    """Found by reconstruction; where that fails, why."""
    preset = PRESETS[preset_name]
    model = checkpoints.make_part(preset, "vq_model")
    assert isinstance(model, VQModel)
    checkpoints.fill(model.eval(), source.tensors(preset), str(source.path))
    frames = pixel_range.first_frames(video, preset)
    psnr_db = pixel_range.psnr_by_range(model, frames)
    try:
        pixel_range.choose_range(model, frames, stated_range([source]))
    except CheckpointError as error:
        return {"pixel_range": None, "psnr_db": psnr_db, "problem": str(error)}
    return {"pixel_range": model.pixel_range, "psnr_db": psnr_db}
