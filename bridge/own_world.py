"""A user's simulator as a World: called by `--world MODULE:CALLABLE`, and held to what it gives.

The callable gets `size_px`, the side of the square frame, and gives an object with what `World`
asks for; to be recorded it needs `RoadWorld`'s, too. An error of its own ends the drive and is said
with its line; a SceneFailed ends the scene alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np

from bridge.worlds import Car, Control, Observation, RoadView, RoadWorld, World
from sim_stream.by_name import UserCodeFailed, shown, where
from sim_stream.errors import InvalidInput, SimStreamError

W = TypeVar("W", bound="OwnWorld")


class WorldFailed(UserCodeFailed):
    """A user's world raised an error; the message holds where."""


class OwnWorld:
    """A World around a user's; `name` is how it was asked for."""

    kind: ClassVar[type] = World
    needs: ClassVar[str] = "a callable that gives a World: fps, car, reset, step, close"

    def __init__(self, name: str, world: Any) -> None:
        """Raises InvalidInput where it is no World."""
        self.name, self._world = name, world
        fits = isinstance(world, self.kind)
        if not fits:
            raise InvalidInput("world", f"{name}, which gives {shown(world)}", self.needs)
        if not (world.car is None or isinstance(world.car, Car)):
            raise InvalidInput(f"world {name}: car", shown(world.car), "a Car or None")

    @property
    def fps(self) -> float:
        fps: float = self._world.fps
        return fps

    @property
    def car(self) -> Car | None:
        car: Car | None = self._world.car
        return car

    def reset(self, seed: int) -> Observation:
        return self._seen(self._call(self._world.reset, seed))

    def step(self, control: Control) -> Observation:
        return self._seen(self._call(self._world.step, control))

    def close(self) -> None:
        self._call(self._world.close)

    def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return method(*arguments)
        except SimStreamError:
            raise
        except Exception as error:  # as above
            raise WorldFailed(f"world {self.name} raised {where(error)}") from error

    def _seen(self, seen: Any) -> Observation:
        if not isinstance(seen, Observation) or not is_frame(seen.frame):
            raise self._nonsense(seen, "an Observation whose frame is uint8 [H, W, 3]")
        return seen

    def _nonsense(self, value: object, allowed: str) -> InvalidInput:
        return InvalidInput(f"world {self.name} returned", shown(value), allowed)


class OwnRoadWorld(OwnWorld):
    """A RoadWorld around a user's."""

    kind = RoadWorld
    needs = f"{OwnWorld.needs}, road, describe"

    def road(self) -> RoadView:
        road = self._call(self._world.road)
        if not isinstance(road, RoadView):
            raise self._nonsense(road, "a RoadView")
        return road

    def describe(self, seed: int) -> dict[str, object]:
        scene = self._call(self._world.describe, seed)
        if not isinstance(scene, dict):
            raise self._nonsense(scene, "a dict of plain values")
        return scene


def is_frame(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
        return False
    return value.ndim == 3 and value.shape[2] == 3


def open_own(make: Callable[..., Any], name: str, size_px: int) -> OwnWorld:
    """A RoadWorld where the user's is one. Raises WorldFailed, InvalidInput."""

    def wrapped(world: Any) -> OwnWorld:
        return (OwnRoadWorld if isinstance(world, RoadWorld) else OwnWorld)(name, world)

    return _made(make, name, size_px, wrapped)


def open_own_road(make: Callable[..., Any], name: str, size_px: int) -> OwnRoadWorld:
    """Raises WorldFailed, InvalidInput."""
    return _made(make, name, size_px, lambda world: OwnRoadWorld(name, world))


def _made(make: Callable[..., Any], name: str, size_px: int, wrapped: Callable[[Any], W]) -> W:
    try:
        return wrapped(make(size_px=size_px))
    except SimStreamError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise WorldFailed(f"world {name}: could not be made: {where(error)}") from error
