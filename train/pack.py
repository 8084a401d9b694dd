"""Finished runs of the three stages -> a preset's weights folder with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.expects import Expects
from sim_stream.files import parse_json, read_bytes, read_json
from sim_stream.models import checkpoints
from sim_stream.plain_json import to_json
from train.build import Sources, trained_models
from train.config import get_recipe
from train.data.work import write_text

MAX_LOG_BYTES = 1 << 30


def how_made(runs: Path) -> dict[str, Any]:
    """Per stage: steps and minutes of its run, from its log."""
    made = {}
    for stage in ("tokenizer", "world-model", "video-decoder"):
        log = runs / stage / "log.jsonl"
        if not log.is_file():
            raise InvalidInput("runs", f"{log} (does not exist)", "the folder of all three runs")
        try:
            last = parse_json(read_bytes(log, at_most=MAX_LOG_BYTES).splitlines()[-1])
            made[stage] = {"steps": last["step"], "minutes": last["minutes"]}
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise CheckpointError(
                f"{log}: its last line has no step and minutes: {error}"
            ) from error
    return made


def pack(preset: Preset, sources: Sources, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Writes the weights folder; gives its manifest."""
    assert sources.runs is not None
    stages = how_made(sources.runs)
    models = trained_models(preset, sources, get_recipe(preset.name, "world-model").stage)
    if sources.init is not None:
        prompt = checkpoints.read_manifest(sources.init).get("prompt_ids")
        about = {**about, "prompt_ids": prompt} if prompt else about
    return checkpoints.save(out, preset, models, {**about, "stages": stages})


def read_expects(path: Path) -> dict[str, Any]:
    """The `expects` of a manifest from a file of its own. Raises InvalidInput."""
    try:
        values = read_json(path)
    except CheckpointError as error:
        raise InvalidInput("expects", error, "a JSON file") from error
    Expects.of_manifest(values)
    return values


def add_figures(folder: Path, figures: dict[str, Any]) -> None:
    """Puts held-out figures into a folder's manifest."""
    manifest = checkpoints.read_manifest(folder)
    manifest["held_out"] = {**manifest.get("held_out", {}), **figures}
    text = to_json(manifest, indent=1) + "\n"
    write_text(folder / "manifest.json", text)
