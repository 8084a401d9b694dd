"""CarlaWorld: a CARLA server in synchronous mode, one frame per `step`.

A frame is 0.25 s of simulation, ticked in five steps of 0.05 s with five substeps of physics each:
CARLA's advice is at most 0.1 s a tick and 0.01 s a substep. We are the one who ticks; a server that
another client drives already is refused. `close` destroys what was spawned and gives the server its
own settings back, and so do Ctrl-C and every error.

Seeds choose the spawn point and the speed at the start, not the town; there is no traffic of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import carla
import numpy as np

from bridge.carla.ego import CAR, Ego
from bridge.carla.road import road_view
from bridge.carla.versions import compare
from bridge.scenarios import scenario_of
from bridge.worlds import Control, Observation, RoadView, SceneFailed
from sim_stream.errors import InvalidInput, SessionClosed, SimStreamError, Unavailable

TICKS_PER_FRAME, TICK_S = 5, 0.05
SUBSTEPS, SUBSTEP_S = 5, 0.01
SETTLE_TICKS = 10  # a car is spawned a little above the ground
OFF_ROAD_M = 6.0  # from the nearest lane's middle, as in MetaDrive
_STREAM = 0xCA21A
log = logging.getLogger(__name__)


class CarlaWorld:
    """A front camera in CARLA at 4 frames per second of simulation time.

    `town`: a map to load first (None: the one that is loaded). `timeout_s` covers every call to the
    server and every sensor's data. Raises Unavailable, and SceneFailed where another scene may
    work.
    """

    fps = 1.0 / (TICKS_PER_FRAME * TICK_S)
    car = CAR

    def __init__(
        self,
        *,
        size_px: int = 512,
        host: str = "127.0.0.1",
        port: int = 2000,
        town: str | None = None,
        timeout_s: float = 20.0,
    ) -> None:
        self._size_px, self._timeout_s, self._address = size_px, timeout_s, f"{host}:{port}"
        self._made = ExitStack()
        self._ego: Ego | None = None
        self._closed = False
        self._frames = self._tick = 0
        with ExitStack() as on_failure, self._speaking():
            on_failure.callback(self.close)
            self._world = self._connect(host, port, town)
            self._map = self._world.get_map()
            self._town = str(self._map.name)
            self._take_over()
            on_failure.pop_all()

    def reset(self, seed: int) -> Observation:
        self._require_open()
        scenario = scenario_of(seed)
        with self._speaking():
            self._leave_scene()
            points = self._map.get_spawn_points()
            if not points:
                raise SceneFailed("CARLA: this town has no spawn point")
            index = int(np.random.default_rng((_STREAM, seed)).integers(len(points)))
            self._ego = Ego(self._world, points[index], size_px=self._size_px)
            self._ticks(SETTLE_TICKS)
            self._ego.start(scenario.start_speed_mps)
            self._ticks(1)
            self._frames = 0
            self._ego.collisions.drain()
            return self._observe(self._ego)

    def step(self, control: Control) -> Observation:
        ego = self._driving("step")
        with self._speaking():
            ego.apply(control)
            self._ticks(TICKS_PER_FRAME)
            self._frames += 1
            return self._observe(ego)

    def road(self) -> RoadView:
        ego = self._driving("road")
        with self._speaking():
            return road_view(self._world, self._map, ego.vehicle)

    def describe(self, seed: int) -> dict[str, object]:
        start_mps = scenario_of(seed).start_speed_mps
        return {"world": "carla", "seed": seed, "town": self._town, "start_speed_mps": start_mps}

    def close(self) -> None:
        """Leaves the server as it was found. Idempotent; what fails is logged, the rest is done."""
        self._closed = True
        try:
            try:
                self._leave_scene()
            finally:
                self._made.close()
        except RuntimeError as error:
            log.warning("CARLA at %s could not be left in order: %s", self._address, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self, host: str, port: int, town: str | None) -> carla.World:
        client = carla.Client(host, port)
        client.set_timeout(self._timeout_s)
        ours, theirs = client.get_client_version(), client.get_server_version()
        warning = compare(ours, theirs, self._address)
        if warning:
            log.warning("%s", warning)
        return client.get_world() if town is None else client.load_world(town)

    def _take_over(self) -> None:
        before = self._world.get_settings()
        if before.synchronous_mode:
            raise Unavailable(
                f"CARLA at {self._address} is in synchronous mode: another client ticks it, or one "
                "was killed; world.apply_settings(carla.WorldSettings()) sets it free"
            )
        ours = self._world.get_settings()
        ours.synchronous_mode = True
        ours.fixed_delta_seconds = TICK_S
        ours.substepping = True
        ours.max_substep_delta_time, ours.max_substeps = SUBSTEP_S, SUBSTEPS
        # Before it is applied: an interrupt in between must find it, too.
        self._made.callback(self._world.apply_settings, before)
        self._world.apply_settings(ours)

    def _ticks(self, count: int) -> None:
        for _ in range(count):
            self._tick = int(self._world.tick(self._timeout_s))

    def _observe(self, ego: Ego) -> Observation:
        end = self._end(ego)
        return Observation(
            frame=ego.image(self._tick, self._timeout_s),
            sim_time_us=round(self._frames * 1e6 / self.fps),
            ego=ego.state(),
            done=bool(end),
            end=end,
        )

    def _end(self, ego: Ego) -> str:
        if ego.collisions.drain():
            return "crash"
        here = ego.vehicle.get_transform().location
        lane = self._map.get_waypoint(here).transform.location
        beside_m = float(np.hypot(lane.x - here.x, lane.y - here.y))
        return "off_road" if beside_m > OFF_ROAD_M else ""

    def _leave_scene(self) -> None:
        ego, self._ego = self._ego, None
        if ego is not None:
            ego.destroy()

    def _driving(self, call: str) -> Ego:
        self._require_open()
        if self._ego is None:
            raise InvalidInput(call, "a world without a scene", "a call after reset")
        return self._ego

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosed("this CarlaWorld is closed; make a new one")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """The client package knows one error, RuntimeError: a server that is gone or too slow."""
        try:
            yield
        except SimStreamError:
            raise
        except RuntimeError as error:
            raise Unavailable(f"CARLA at {self._address}: {error}") from error
