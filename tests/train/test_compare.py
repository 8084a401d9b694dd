"""Weights folders side by side: each with its own ids, on the same frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim_stream.config import SessionConfig
from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.runtime import Runtime
from tests.small import SMALL, random_video_decoder, random_vq, random_world_model
from train.compare import Contender, compare, scalars, text
from train.data.split import FILES, Drive, Split
from train.evaluate import baseline_bits
from train.rollouts import long_rollouts, per_horizon


def drive(folder: Path) -> Split:
    """One drive of 20 frames, long enough for a prompt and its 14 frames."""
    folder.mkdir(parents=True)
    frames = np.full((20, 32, 32, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        frame[8:16, i : i + 8] = (200, 120, 60)
    np.save(folder / FILES.frames, frames)
    np.save(folder / FILES.actions, np.tile(np.float32([8.0, 0.1]), (20, 1)))
    (folder / FILES.drives).write_text(json.dumps([vars(Drive(id="a", start=0, length=20))]))
    return Split.open(folder.parent, folder.name)


def contender(name: str, seed: int) -> Contender:
    vq = random_vq(seed=seed)
    preset = replace(SMALL, session=SessionConfig(context_frames=4, anchor_frames=2))
    runtime = Runtime(preset, vq, random_world_model(), random_video_decoder())
    return Contender(name=name, runtime=runtime, tokenizer=vq)


def measure(runtime: Runtime, split: Split) -> dict[str, Any]:
    return {
        "world_model": baseline_bits(split, runtime.layout.num_codes),
        "rollouts": per_horizon(runtime, split, 1),
        "long_rollouts": long_rollouts(runtime, split, 1, 5),
    }


def test_each_is_measured_with_its_own_ids_and_shown_beside_the_truth(tmp_path: Path) -> None:
    split = drive(tmp_path / "cache" / "val")
    both = [contender("old", 0), contender("new", 1)]
    figures, page = compare(both, split, tmp_path / "out", measure=measure, shown=2)
    ids = [np.fromfile(tmp_path / "out/ids" / name / FILES.ids, "u1") for name in ("old", "new")]
    assert not np.array_equal(*ids)
    assert not (split.folder / FILES.ids).exists()
    assert page.count("<img") == 2 * 3 and page.count("<svg") == 1
    lines = text(figures).splitlines()
    assert lines[0].split() == ["old", "new"]
    assert len(lines) == 1 + len(scalars(figures["old"]))
    assert "world_model codes_in_use" in text(figures)
    json.dumps(figures)


@pytest.mark.parametrize("names", [["one"], ["same", "same"]])
def test_it_takes_two_names(tmp_path: Path, names: list[str]) -> None:
    split = drive(tmp_path / "cache" / "val")
    with pytest.raises(InvalidInput, match="weights"):
        compare([contender(name, 0) for name in names], split, tmp_path, measure=measure)
