"""The exploring driver: follows the road, and keeps leaving the plain way of doing it.

A world model can only answer to actions it has seen, so a recorded drive must hold more than good
driving: lane changes, wandering, steering pulses on straight roads, excursions over the lane's
edge, braking to a standstill. Every drive draws its own style from its seed; left and right are
drawn in balanced pairs.

It knows a RoadView and an EgoState, no simulator. Path following is pure pursuit (Coulter 1992);
the gap to a leading car is kept by a plain proportional law, not by a traffic model.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bridge.worlds import Control, EgoState, Observation, RoadView

# Measured in MetaDrive: curvature = tan(steer x 40 degrees) / 2.5 m, speed hardly matters.
MAX_WHEEL_RAD = math.radians(40.0)
WHEELBASE_M = 2.5
MAX_LATERAL_MPS2 = 4.0
STANDSTILL_MPS = 0.3
_STREAM = 0xD21F

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a kind of manoeuvre is drawn; `weight` is relative to the others', sizes scale with
    boldness and are metres for offsets and rad/s for yaw rates."""

    weight: float
    steps: tuple[int, int]
    size: Range | None = None
    period_steps: Range | None = None


RECIPES = {
    "follow": Recipe(weight=2.0, steps=(3, 10)),
    "wander": Recipe(weight=2.0, steps=(12, 28), size=(0.4, 1.8), period_steps=(10, 28)),
    "pulse": Recipe(weight=3.0, steps=(2, 6), size=(0.08, 0.45)),
    "weave": Recipe(weight=2.5, steps=(8, 20), size=(0.08, 0.4), period_steps=(5, 12)),
    "excursion": Recipe(weight=1.5, steps=(10, 18), size=(1.2, 2.8)),
    "lane_change": Recipe(weight=2.0, steps=(8, 16)),
    "stop": Recipe(weight=0.8, steps=(14, 26)),
    "speed": Recipe(weight=2.0, steps=(6, 14)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """What stays the same over one drive."""

    cruise_mps: float
    boldness: float  # scales every deviation, 0.5 to 1.3
    lookahead_s: float
    jitter: float  # standard deviation of the steering noise, as yaw rate in rad/s


@dataclasses.dataclass(kw_only=True)
class Manoeuvre:
    """What goes on for a few seconds; `sign` is +1 for left, -1 for right."""

    kind: str
    steps: int
    sign: float = 1.0
    size: float = 0.0
    period_steps: float = 1.0
    age: int = 0

    @property
    def phase(self) -> float:
        """0 at the start, 1 at the end."""
        return self.age / self.steps


class ExploringDriver:
    """One drive's driver: `act` once per observation. Everything it draws comes from the seed."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng((_STREAM, seed))
        draw = self._draw
        self.style = Style(
            cruise_mps=float(
                draw.choice([draw.uniform(3, 7), draw.uniform(6, 12), draw.uniform(10, 17)])
            ),
            boldness=float(draw.uniform(0.5, 1.3)),
            lookahead_s=float(draw.uniform(0.7, 1.2)),
            jitter=float(draw.uniform(0.0, 0.06)),
        )
        self._sign = float(draw.choice([-1.0, 1.0]))
        self._flip_next = False
        self._target_mps = self.style.cruise_mps
        self._noise = 0.0
        self._manoeuvre = Manoeuvre(kind="follow", steps=int(draw.integers(2, 8)))

    def act(self, seen: Observation, road: RoadView) -> Control:
        """The control to hold until the next observation."""
        if self._manoeuvre.age >= self._manoeuvre.steps:
            self._manoeuvre = self._next(road)
        steer = self._steer(seen.ego, road)
        throttle = self._throttle(seen.ego, road)
        self._manoeuvre.age += 1
        return Control(steer=steer, throttle=throttle)

    def _balanced_sign(self) -> float:
        """Draws come in pairs of opposite signs, so that neither side is seen more often."""
        if self._flip_next:
            self._sign = -self._sign
        else:
            self._sign = float(self._draw.choice([-1.0, 1.0]))
        self._flip_next = not self._flip_next
        return self._sign

    def _next(self, road: RoadView) -> Manoeuvre:
        draw = self._draw
        weights = np.array([recipe.weight for recipe in RECIPES.values()])
        kind = str(draw.choice(list(RECIPES), p=weights / weights.sum()))
        if kind == "lane_change":
            return self._lane_change(road)
        if kind == "speed":
            factor = draw.uniform(0.4, 1.6)
            self._target_mps = float(np.clip(self.style.cruise_mps * factor, 2.0, 19.0))
        recipe = RECIPES[kind]
        manoeuvre = Manoeuvre(kind=kind, steps=int(draw.integers(*recipe.steps)))
        if recipe.size is not None:
            manoeuvre.sign = self._balanced_sign()
            manoeuvre.size = self.style.boldness * draw.uniform(*recipe.size)
        if recipe.period_steps is not None:
            manoeuvre.period_steps = draw.uniform(*recipe.period_steps)
        return manoeuvre

    def _lane_change(self, road: RoadView) -> Manoeuvre:
        free = [
            sign
            for sign, lanes in ((1.0, road.lanes_left), (-1.0, road.lanes_right))
            if lanes and not self._occupied(road, sign * road.lane_width_m)
        ]
        if not free:
            return Manoeuvre(kind="follow", steps=3)
        sign = self._balanced_sign()
        if sign not in free:
            sign = -sign
        steps = int(self._draw.integers(*RECIPES["lane_change"].steps))
        return Manoeuvre(kind="lane_change", steps=steps, sign=sign, size=road.lane_width_m)

    @staticmethod
    def _occupied(road: RoadView, offset_m: float) -> bool:
        """Whether a car is beside us, within 12 m, about where offset_m would put us."""
        x_m, y_m = road.actors[:, 0], road.actors[:, 1]
        return bool(np.any((np.abs(x_m) < 12.0) & (np.abs(y_m - offset_m) < 1.8)))

    def _aim_offset_m(self, road: RoadView) -> float:
        """Where to be beside the nearest lane's centreline now, positive = left."""
        now = self._manoeuvre
        match now.kind:
            case "wander":
                return now.sign * now.size * math.sin(2 * math.pi * now.age / now.period_steps)
            case "excursion":
                return now.sign * now.size * math.sin(math.pi * min(1.0, 1.2 * now.phase))
            case "lane_change":
                beside_m = road.path_m[0, 1]  # the nearest centreline, which jumps when we cross
                crossed = now.phase > 0.15 and now.sign * beside_m > 0.0
                return 0.0 if crossed else now.sign * now.size
        return 0.0

    def _steer(self, ego: EgoState, road: RoadView) -> float:
        speed_mps = max(ego.speed_mps, 1.0)
        ahead_m = float(np.clip(self.style.lookahead_s * speed_mps, 4.0, 18.0))
        path_m = _shifted(road.path_m, self._aim_offset_m(road))
        distance_m = np.hypot(path_m[:, 0], path_m[:, 1])
        beyond = np.flatnonzero((distance_m >= ahead_m) & (path_m[:, 0] > 0))
        x_m, y_m = path_m[beyond[0] if len(beyond) else -1]
        curvature = 2.0 * y_m / max(x_m * x_m + y_m * y_m, 4.0)
        curvature += self._disturbance_radps() / max(speed_mps, 3.0)
        limit = MAX_LATERAL_MPS2 / (speed_mps * speed_mps)
        curvature = float(np.clip(curvature, -limit, limit))
        return float(np.clip(math.atan(curvature * WHEELBASE_M) / MAX_WHEEL_RAD, -1.0, 1.0))

    def _disturbance_radps(self) -> float:
        """The yaw rate that pulses, weaving and jitter add to lane keeping."""
        self._noise = 0.7 * self._noise + self._draw.normal(0.0, self.style.jitter)
        now = self._manoeuvre
        if now.kind == "pulse":
            return self._noise + now.sign * now.size
        if now.kind == "weave":
            wave = math.sin(2 * math.pi * now.age / now.period_steps)
            return self._noise + now.sign * now.size * wave
        return self._noise

    def _throttle(self, ego: EgoState, road: RoadView) -> float:
        target_mps = min(self._target_mps, _curve_speed_mps(road))
        now = self._manoeuvre
        if now.kind == "stop" and now.phase < 0.75:
            target_mps = 0.0
        gap_m, lead_mps = _lead(road)
        safe_mps = max(0.0, lead_mps + 0.35 * (gap_m - 7.0))
        target_mps = min(target_mps, safe_mps)
        if target_mps < STANDSTILL_MPS and ego.speed_mps < STANDSTILL_MPS:
            return -1.0
        gain = 0.35 if target_mps > ego.speed_mps else 0.25
        return float(np.clip(gain * (target_mps - ego.speed_mps), -1.0, 0.9))


def _shifted(path_m: np.ndarray, offset_m: float) -> np.ndarray:
    """The path moved sideways by offset_m, positive = left."""
    along = np.gradient(path_m, axis=0)
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-6)[:, None]
    return path_m + offset_m * np.stack([-along[:, 1], along[:, 0]], axis=1)


def _curve_speed_mps(road: RoadView) -> float:
    """The speed at which the sharpest bend of the next 30 m costs the allowed lateral force."""
    along = np.diff(road.path_m[:16], axis=0)
    headings = np.unwrap(np.arctan2(along[:, 1], along[:, 0]))
    step_m = np.maximum(np.hypot(along[:-1, 0], along[:-1, 1]), 0.5)
    curvature = float(np.max(np.abs(np.diff(headings)) / step_m))
    return math.sqrt(0.7 * MAX_LATERAL_MPS2 / max(curvature, 1e-4))


def _lead(road: RoadView) -> tuple[float, float]:
    """Gap and speed of the nearest car on our path; an empty road gives a far, fast one."""
    best = (200.0, 30.0)
    for x_m, y_m, speed_mps in road.actors:
        if x_m <= 0.5:
            continue
        to_path_m = np.min(np.hypot(road.path_m[:, 0] - x_m, road.path_m[:, 1] - y_m))
        straight_ahead = abs(y_m) < 1.8 and x_m < 25.0
        if (to_path_m < 2.0 or straight_ahead) and x_m - 4.5 < best[0]:
            best = (float(x_m - 4.5), float(speed_mps))
    return best
