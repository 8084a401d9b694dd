"""Checkpoints of the three stages -> a preset's weights folder with its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from sim_stream.config import Preset
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from train.loop import load_checkpoint


def averaged(model: nn.Module, stage: Path) -> nn.Module:
    """The model with the averaged weights of a stage's last checkpoint."""
    state = load_checkpoint(stage / "last.pt")["ema"]
    checkpoints.load_strict(model, state, str(stage))
    return model.eval()


def load_vq(preset: Preset, runs: Path) -> VQModel:
    model = averaged(VQModel(preset.vq), runs / "tokenizer")
    assert isinstance(model, VQModel)
    return model


def how_made(runs: Path) -> dict[str, Any]:
    """Per stage: steps and minutes of its run, from its log."""
    made = {}
    for stage in ("tokenizer", "world-model", "video-decoder"):
        last = json.loads((runs / stage / "log.jsonl").read_text().splitlines()[-1])
        made[stage] = {"steps": last["step"], "minutes": last["minutes"]}
    return made


def pack(preset: Preset, runs: Path, out: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Writes the weights folder; gives its manifest."""
    models = {
        "vq_model": load_vq(preset, runs),
        "world_model": averaged(WorldModel(preset.world_model), runs / "world-model"),
        "video_decoder": averaged(
            VideoDecoder(preset.vq, preset.video_decoder), runs / "video-decoder"
        ),
    }
    return checkpoints.save(out, preset, models, {**about, "stages": how_made(runs)})


def add_figures(folder: Path, figures: dict[str, Any]) -> None:
    """Puts held-out figures into a folder's manifest."""
    manifest = checkpoints.read_manifest(folder)
    manifest["held_out"] = figures
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
