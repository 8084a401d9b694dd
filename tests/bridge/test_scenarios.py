"""Seeds, maps and splits: what is held out stays held out."""

from __future__ import annotations

import dataclasses

import pytest

from bridge.scenarios import (
    LIGHTS,
    MAPS,
    MAX_TRAFFIC,
    SEEDS,
    VARIED_LIGHT,
    drive_seed,
    scenario_of,
    split_of,
)
from sim_stream.errors import InvalidInput


def test_splits_share_neither_seeds_nor_maps() -> None:
    assert SEEDS["train"].stop <= SEEDS["val"].start
    assert not set(MAPS["train"]) & set(MAPS["val"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_seed_draws_its_map_from_its_own_split(split: str) -> None:
    scenes = [scenario_of(drive_seed(split, index)) for index in range(300)]
    assert {scene.blocks for scene in scenes} == set(MAPS[split])
    assert {scene.split for scene in scenes} == {split}


def test_scenes_differ_in_lanes_traffic_and_start_and_stay_within_bounds() -> None:
    scenes = [scenario_of(seed) for seed in range(300)]
    assert {scene.lanes for scene in scenes} == {2, 3, 4}
    assert min(scene.traffic for scene in scenes) == 0.0
    assert 0.15 < max(scene.traffic for scene in scenes) <= MAX_TRAFFIC
    assert 0.15 < sum(scene.start_speed_mps == 0 for scene in scenes) / 300 < 0.35


def test_a_scene_is_its_seeds() -> None:
    assert scenario_of(17) == scenario_of(17) != scenario_of(18)


@pytest.mark.parametrize("seed", [-1, 100_000])
def test_a_seed_of_no_split_is_refused(seed: int) -> None:
    with pytest.raises(InvalidInput, match="seed"):
        split_of(seed)


def test_a_drive_index_beyond_the_split_is_refused() -> None:
    with pytest.raises(InvalidInput, match="drive index"):
        drive_seed("val", len(SEEDS["val"]))


def test_the_first_seeds_of_a_split_are_daylight_and_the_rest_have_all_lights() -> None:
    for split, first in VARIED_LIGHT.items():
        start = SEEDS[split].start
        assert {scenario_of(seed).light for seed in range(start, start + 300)} == {"day"}
        lights = [scenario_of(seed).light for seed in range(first, first + 1000)]
        shares = {light: lights.count(light) / 1000 for light in LIGHTS}
        # The standard error of a share is below 0.016.
        assert shares == pytest.approx(LIGHTS, abs=0.06)


def test_a_light_changes_nothing_else_of_a_scene() -> None:
    # seed 17 as it was before scenes had lights: one of the drives that pocket-2 was made from
    scene = dataclasses.astuple(scenario_of(17))
    assert scene == (17, "train", "CXCSS", 3, 3.25, 0.0, 11.23, "day")
