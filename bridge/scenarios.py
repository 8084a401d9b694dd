"""Which scene a seed stands for, and which seeds and maps belong to which split.

Held-out drives share neither seeds nor block sequences with the training drives; `split_of` and the
two map lists below are the only places that say so, and importing this module checks it.

A block sequence is MetaDrive's: S straight, C curve, X junction, T three-way junction, O
roundabout, r and R on- and off-ramp. The seed also decides each block's own parameters (radius,
direction, ...). This module does not know how a scene is built or driven.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from sim_stream.errors import InvalidInput

Split = Literal["train", "val"]
Light = Literal["day", "overcast", "dusk", "night"]

SEEDS: dict[Split, range] = {"train": range(0, 90_000), "val": range(90_000, 100_000)}

# The first seeds of each split are all daylight: the drives that pocket-1 and pocket-2 were made
# from and measured on. Those from here on have a light of their own.
VARIED_LIGHT: dict[Split, int] = {"train": 10_000, "val": 91_000}

MAPS: dict[Split, tuple[str, ...]] = {
    "train": (
        "SSSSS", "SSCSS", "CSSCS", "CCCCC", "CCSCC", "SCCSC", "SXSCS", "CXCSS", "SXXCS",
        "STSCS", "CTCSS", "SOSCS", "COSCC", "SXOCS", "STXCS", "SrSRC", "CRSrC", "SSCXS",
        "SCOSS", "CSTSC",
    ),
    "val": (
        "SCSCC", "CSCSC", "XCSSC", "SCXCC", "TSCCS", "OSCSC", "CSXTS", "SSOCC", "RSCrS", "SSSCC",
    ),
}  # fmt: skip

LANES = (2, 3, 4)
LANE_WIDTHS_M = (3.25, 3.5, 3.75)
MAX_TRAFFIC = 0.2
MAX_START_SPEED_MPS = 14.0
STANDING_START = 0.25  # the share of drives that begin at a standstill
EMPTY_ROAD = 0.2  # the share of drives without traffic
LIGHTS: dict[Light, float] = {"day": 0.4, "overcast": 0.2, "dusk": 0.2, "night": 0.2}
_STREAM = 0x5CE0  # keeps these draws apart from the driver's draws of the same seed
_LIGHT_STREAM = 0x5CE1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """One scene; the seed also drives the simulator's own random choices."""

    seed: int
    split: Split
    blocks: str
    lanes: int
    lane_width_m: float
    traffic: float
    start_speed_mps: float
    light: Light


def split_of(seed: int) -> Split:
    """The split a seed belongs to; raises InvalidInput for a seed of neither."""
    for split, seeds in SEEDS.items():
        if seed in seeds:
            return split
    raise InvalidInput("seed", seed, " or ".join(f"[{r.start}, {r.stop})" for r in SEEDS.values()))


def drive_seed(split: Split, index: int) -> int:
    """The seed of a split's drive number `index`."""
    if split not in SEEDS:
        raise InvalidInput("split", split, " or ".join(SEEDS))
    if not 0 <= index < len(SEEDS[split]):
        raise InvalidInput("drive index", index, f"[0, {len(SEEDS[split])}) in {split}")
    return SEEDS[split][index]


def scenario_of(seed: int) -> Scenario:
    """The scene of a seed, drawn from its own split's maps."""
    split = split_of(seed)
    draw = np.random.default_rng((_STREAM, seed))
    empty, standing = draw.random() < EMPTY_ROAD, draw.random() < STANDING_START
    return Scenario(
        seed=seed,
        split=split,
        blocks=MAPS[split][int(draw.integers(len(MAPS[split])))],
        lanes=LANES[int(draw.integers(len(LANES)))],
        lane_width_m=LANE_WIDTHS_M[int(draw.integers(len(LANE_WIDTHS_M)))],
        traffic=0.0 if empty else float(np.round(draw.uniform(0.02, MAX_TRAFFIC), 3)),
        start_speed_mps=(
            0.0 if standing else float(np.round(draw.uniform(2.0, MAX_START_SPEED_MPS), 2))
        ),
        light=_light(seed, split),
    )


def _light(seed: int, split: Split) -> Light:
    if seed < VARIED_LIGHT[split]:
        return "day"
    draw = np.random.default_rng((_LIGHT_STREAM, seed))
    return list(LIGHTS)[int(draw.choice(len(LIGHTS), p=list(LIGHTS.values())))]


assert not set(SEEDS["train"]) & set(SEEDS["val"]), "train and val share seeds"
assert not set(MAPS["train"]) & set(MAPS["val"]), "train and val share maps"
