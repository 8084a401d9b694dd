"""The contract with a policy: how it is found by name, called, and held to what it may return.

A policy is a callable of two arguments: the frame, uint8 [H, W, 3], RGB, and the `Action` that led
to it. It returns the motion that shall lead to the next frame: an `Action`, or a pair of numbers,
speed in m/s and yaw rate in rad/s, positive to the left. A class is made anew for every drive, so
that its instances may remember; a function has to remember nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bridge.policies.lane_keep import LaneKeep
from sim_stream.by_name import SPELLED, UserCodeFailed, find_callable, shown, where
from sim_stream.config import Action
from sim_stream.errors import InvalidInput

Frame = npt.NDArray[np.uint8]
POLICIES: dict[str, Callable[..., Any]] = {"lane-keep": LaneKeep}
ALLOWED = f"{', '.join(POLICIES)}, or {SPELLED}"
RETURNS = "an Action or a pair of finite numbers (speed_mps, yaw_rate_radps), speed 0 or more"


class PolicyFailed(UserCodeFailed):
    """A policy raised an error; the message holds where."""


class Policy:
    """One policy, found by its name; `start` begins a drive, calling it decides a frame."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._made_from = POLICIES.get(name) or find_callable(
            "policy", name, allowed=ALLOWED, failed=PolicyFailed
        )
        self._decide: Callable[..., Any] | None = None

    def start(self) -> None:
        """Forget the last drive: a class is instantiated anew. Raises PolicyFailed."""
        made_from = self._made_from
        try:
            self._decide = made_from() if isinstance(made_from, type) else made_from
        except Exception as error:  # whatever a user's code raises, the drive says so
            raise PolicyFailed(f"policy {self.name}: could not be made: {where(error)}") from error
        if not callable(self._decide):
            raise InvalidInput("policy", f"{self.name}, a class without __call__", ALLOWED)

    def __call__(self, frame_HW3: Frame, last: Action) -> Action:
        """What the policy decides. Raises PolicyFailed, and InvalidInput for an impossible value.

        It gets a frame of its own: what it paints on it, nobody else sees.
        """
        if self._decide is None:
            raise InvalidInput("policy", "no drive", "a call after start")
        try:
            decided = self._decide(frame_HW3.copy(), last)
        except Exception as error:  # as above
            raise PolicyFailed(f"policy {self.name} raised {where(error)}") from error
        return self._checked(decided)

    def _checked(self, decided: Any) -> Action:
        values: Any = decided
        if isinstance(decided, Action):
            values = (decided.speed_mps, decided.yaw_rate_radps)
        try:
            numbers = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise self._nonsense(decided) from error
        if numbers.shape != (2,) or not np.isfinite(numbers).all() or numbers[0] < 0:
            raise self._nonsense(decided)
        return Action(speed_mps=float(numbers[0]), yaw_rate_radps=float(numbers[1]))

    def _nonsense(self, decided: Any) -> InvalidInput:
        return InvalidInput(f"policy {self.name} returned", shown(decided), RETURNS)
