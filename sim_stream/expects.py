"""What a model expects of its prompt, its camera and its actions, as its weights' manifest says it.

A prompt that the tokenizer cannot show is not of the model's world, and a drive from it collapses
within a few frames. Its sign is cheap: how far the last prompt frame is from its reconstruction.

Knows no models and no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_stream.config import from_dict
from sim_stream.errors import InvalidInput

MOST_PSNR_DB = 99.0  # of equal pictures: JSON and the wire have no infinity
ACTIONS = ("speed_mps", "yaw_rate_radps")
# How a number of an action was taken in training, over the frame that it led to.
TAKEN = ("end", "mean")


@dataclass(frozen=True, kw_only=True)
class CameraPose:
    """The camera of the training frames; ``field_of_view_deg`` of the square frame, both ways."""

    field_of_view_deg: float
    up_m: float
    pitch_down_deg: float

    def __post_init__(self) -> None:
        _require("camera.field_of_view_deg", self.field_of_view_deg, 1.0, 179.0)
        _require("camera.up_m", self.up_m, 0.0, 100.0)
        _require("camera.pitch_down_deg", self.pitch_down_deg, -90.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class Expects:
    """None or empty: the weights do not say.

    ``prompt_psnr_min_db``: a prompt below it is foreign. ``prompt_psnr_own_db``: what the model's
    own world reaches. ``actions``: of each number, whether it is that at the frame which the action
    leads to ("end") or the mean since the frame before ("mean").
    """

    prompt_psnr_min_db: float | None = None
    prompt_psnr_own_db: float | None = None
    camera: CameraPose | None = None
    actions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least, own = self.prompt_psnr_min_db, self.prompt_psnr_own_db
        for name in ("prompt_psnr_min_db", "prompt_psnr_own_db"):
            if getattr(self, name) is not None:
                _require(name, getattr(self, name), 0.0, MOST_PSNR_DB)
        if least is not None and own is not None and own < least:
            raise InvalidInput("prompt_psnr_own_db", own, f"prompt_psnr_min_db ({least}) or more")
        for name, taken in self.actions.items():
            if name not in ACTIONS or taken not in TAKEN:
                allowed = f"{' and '.join(ACTIONS)}: {' or '.join(TAKEN)}"
                raise InvalidInput("actions", f"{name}: {taken}", allowed)

    @classmethod
    def of_manifest(cls, values: Any) -> Expects:
        """From a manifest's ``expects``. Raises InvalidInput, naming what is wrong."""
        if not isinstance(values, dict):
            raise InvalidInput("expects", type(values).__name__, "a map")
        values = dict(values)
        for name in ("camera", "actions"):
            if not isinstance(values.get(name, {}), dict):
                raise InvalidInput(name, type(values[name]).__name__, "a map")
        if "camera" in values:
            values["camera"] = from_dict(CameraPose, values["camera"])
        return from_dict(cls, values)


NOTHING_SAID = Expects()


def _require(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # NaN fails, too
        raise InvalidInput(name, value, f"a number, {low:g}..{high:g}")


def psnr_db(one_HW3: npt.NDArray[np.uint8], other_HW3: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, at most 99."""
    difference_HW3 = one_HW3.astype(np.float32) - other_HW3
    # Squares of bytes' differences are whole numbers, so the sum is exact.
    mean_square = float(np.square(difference_HW3).mean(dtype=np.float64))
    if mean_square == 0.0:
        return MOST_PSNR_DB
    return min(10.0 * math.log10(255.0**2 / mean_square), MOST_PSNR_DB)


def is_foreign(prompt_psnr_db: float | None, min_db: float | None) -> bool:
    """False where either is unknown."""
    return prompt_psnr_db is not None and min_db is not None and prompt_psnr_db < min_db


def prompt_warning(prompt_psnr_db: float | None, min_db: float | None, own_db: float | None) -> str:
    """In words what a foreign prompt means; empty for one that is not."""
    if not is_foreign(prompt_psnr_db, min_db):
        return ""
    reached = f"{min_db if own_db is None else own_db:g} dB or more"
    return (
        f"the model cannot show this prompt: {prompt_psnr_db:.1f} dB, its own world {reached}; "
        "expect the drive to collapse"
    )
