"""MetaDrive 0.3.0.1 as frames and ego states; runs in the worker's environment only.

Scenarios come as plain maps (see bridge/scenarios.py); one process serves many, since the first
start costs 10 to 20 s and a further reset one or two. Coordinates that leave this file are ISO
8855: x forward or east, y left or north, angles counter-clockwise. MetaDrive's y points right;
Panda3D's, underneath it, points left, so the values are taken from Panda3D's nodes.

A seed gives the same drive again, though not the same pixels: where the surfaces of two lanes
overlap, the engine draws them in an order of its own (mean difference up to 2 of 255).

It does not know about drivers, splits or files.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

# Both must stand before panda3d is imported. Without the second, llvmpipe's anisotropic filtering
# takes 10 to 88 s for one frame.
os.environ["EGL_PLATFORM"] = "surfaceless"
os.environ["MESA_EXTENSION_OVERRIDE"] = (
    "-GL_EXT_texture_filter_anisotropic -GL_ARB_texture_filter_anisotropic"
)

import numpy as np
import panda3d.core as p3d

for _line in ("load-display p3headlessgl", "framebuffer-multisample 0", "multisamples 0"):
    p3d.loadPrcFileData("", _line)

from light import apply_light  # noqa: E402  (its neighbour here: the worker runs as a script)
from metadrive.engine.core.our_pbr import OurPipeline  # noqa: E402
from metadrive.envs.metadrive_env import MetaDriveEnv  # noqa: E402

PHYSICS_STEP_S = 0.025
STEPS_PER_FRAME = 10
FRAME_US = 250_000
SEEDS = 100_000  # MetaDrive keeps one map slot per seed it may be asked for
FIELD_OF_VIEW_DEG = 66.0
CAMERA_FORWARD_M, CAMERA_UP_M, CAMERA_PITCH_DEG = 0.8, 1.5, -3.5
PATH_STEP_M, PATH_POINTS = 2.0, 30
ACTOR_RANGE_M = 60.0
OFF_ROAD_M = 6.0  # from the nearest centreline of the route: over the kerb with all wheels


def _without_multisampling() -> None:
    original = OurPipeline.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["msaa_samples"] = 0
        original(self, *args, **kwargs)

    OurPipeline.__init__ = init


def _config(size_px: int) -> dict[str, Any]:
    return {
        "image_observation": True,
        "vehicle_config": {
            "rgb_camera": (size_px, size_px),
            "image_source": "rgb_camera",
            "stack_size": 1,
        },
        "rgb_clip": False,
        "global_light": False,
        "physics_world_step_size": PHYSICS_STEP_S,
        "decision_repeat": STEPS_PER_FRAME,
        "start_seed": 0,
        "environment_num": SEEDS,
        "multi_thread_render": False,  # its pipelining would show the frame before this one
        "show_interface": False,
        "show_logo": False,
        "show_fps": False,
        "on_continuous_line_done": False,
        "out_of_route_done": False,
        "traffic_mode": "trigger",
        "map": "SS",
    }


class Simulator:
    """One MetaDrive engine; reset(seed, scenario), step(steer, throttle), close()."""

    def __init__(self, *, size_px: int) -> None:
        _without_multisampling()
        self._env = MetaDriveEnv(_config(size_px))
        self._frames = 0
        self._map_seed: int | None = None

    def reset(self, seed: int, scenario: dict[str, Any]) -> dict[str, Any]:
        """Build the scenario's map and traffic from the seed; the first frame."""
        config = self._env.config
        config["traffic_density"] = scenario["traffic"]
        config["map_config"]["config"] = scenario["blocks"]
        config["map_config"]["lane_num"] = scenario["lanes"]
        config["map_config"]["lane_width"] = scenario["lane_width_m"]
        self._rebuild(seed)
        self._frames = 0
        vehicle = self._env.vehicle
        self._map_seed = seed
        # Every time: each vehicle that MetaDrive creates, traffic too, re-aims the one camera.
        camera = vehicle.image_sensors["rgb_camera"]
        self._aim(camera.get_cam(), camera.get_lens())
        apply_light(self._env.engine, scenario["light"])
        vehicle.set_velocity(vehicle.heading, scenario["start_speed_mps"])
        observation = self._env.observations["default_agent"].observe(vehicle)  # renders anew
        return self._reply(observation, self._path(), "")

    def step(self, steer: float, throttle: float) -> dict[str, Any]:
        """Hold the control for one frame (0.25 s of simulation)."""
        if self._map_seed is None:
            raise RuntimeError("step before reset")
        observation, _, _, info = self._env.step([steer, throttle])
        self._frames += 1
        path = self._path()
        return self._reply(observation, path, self._end_reason(info, path))

    def close(self) -> None:
        self._env.close()

    def _rebuild(self, seed: int) -> None:
        if self._env.engine is None:
            self._env.reset(force_seed=seed)
            return
        # MetaDrive keeps a map per seed, but our maps also differ by scenario, and they pile up.
        maps = self._env.engine.map_manager.maps
        stale = maps[self._map_seed]
        maps[self._map_seed] = None
        self._env.reset(force_seed=seed)
        stale.destroy()

    @staticmethod
    def _aim(camera: Any, lens: Any) -> None:
        camera.setPos(0.0, CAMERA_FORWARD_M, CAMERA_UP_M)
        camera.setHpr(0.0, CAMERA_PITCH_DEG, 0.0)
        lens.setAspectRatio(1.0)
        lens.setFov(FIELD_OF_VIEW_DEG, FIELD_OF_VIEW_DEG)

    @staticmethod
    def _end_reason(info: dict[str, Any], path: np.ndarray) -> str:
        for key, reason in (
            ("crash_vehicle", "crash"),
            ("crash_object", "crash"),
            ("crash_building", "crash"),
            ("arrive_dest", "arrived"),
        ):
            if info.get(key):
                return reason
        if float(np.min(np.hypot(path[:, 0], path[:, 1]))) > OFF_ROAD_M:
            return "off_road"
        return ""

    def _reply(self, observation: dict[str, Any], path: np.ndarray, end: str) -> dict[str, Any]:
        frame_BGR = observation["image"][..., -1].astype(np.uint8)
        vehicle = self._env.vehicle
        position = vehicle.origin.getPos()
        index, lanes = self._lane(), vehicle.navigation.current_ref_lanes
        return {
            "frame": np.ascontiguousarray(frame_BGR[..., ::-1]).tobytes(),
            "shape": list(frame_BGR.shape),
            "sim_time_us": self._frames * FRAME_US,
            "x_m": float(position[0]),
            "y_m": float(position[1]),
            "speed_mps": float(vehicle.speed),
            "heading_rad": self._heading_rad(),
            "yaw_rate_radps": float(vehicle.body.getAngularVelocity()[2]),
            "end": end,
            "path": path.tolist(),
            "lane_width_m": float(lanes[0].width),
            "lanes_left": index,
            "lanes_right": len(lanes) - 1 - index,
            "actors": self._actors(),
        }

    def _heading_rad(self) -> float:
        return math.radians(self._env.vehicle.origin.getH() + 90.0)

    def _lane(self) -> int:
        """The index, from the left, of the lane of the route that the car is nearest to."""
        vehicle = self._env.vehicle
        offsets = [
            abs(lane.local_coordinates(vehicle.position)[1])
            for lane in vehicle.navigation.current_ref_lanes
        ]
        return int(np.argmin(offsets))

    def _path(self) -> np.ndarray:
        """Centreline of the nearest lane along the route, in the car's frame, every 2 m."""
        navigation = self._env.vehicle.navigation
        graph = navigation.map.road_network.graph
        first = navigation._target_checkpoints_index[0]
        nodes = navigation.checkpoints[first:]
        roads = [graph[a][b] for a, b in itertools.pairwise(nodes)]
        lane = roads[0][self._lane()]
        along_m = lane.local_coordinates(self._env.vehicle.position)[0]
        points = []
        for _ in range(PATH_POINTS):
            while along_m > lane.length and len(roads) > 1:
                along_m -= lane.length
                roads = roads[1:]
                lane = self._successor(lane, roads[0])
            points.append(self._to_ego(lane.position(along_m, 0.0)))
            along_m += PATH_STEP_M
        return np.array(points)

    @staticmethod
    def _successor(lane: Any, road: list[Any]) -> Any:
        for candidate in road:
            if lane.is_previous_lane_of(candidate):
                return candidate
        return road[min(lane.index[-1], len(road) - 1)]

    def _to_ego(self, position: Any) -> tuple[float, float]:
        here = self._env.vehicle.origin.getPos()
        east, north = position[0] - here[0], -position[1] - here[1]
        cos, sin = math.cos(self._heading_rad()), math.sin(self._heading_rad())
        return float(cos * east + sin * north), float(cos * north - sin * east)

    def _actors(self) -> list[list[float]]:
        """Other vehicles near the car: x, y and speed along the car's own heading."""
        ego = self._env.vehicle
        forward = np.array([math.cos(self._heading_rad()), -math.sin(self._heading_rad())])
        found = []
        for other in self._env.engine.traffic_manager.vehicles:
            x_m, y_m = self._to_ego(other.position)
            if other is not ego and math.hypot(x_m, y_m) < ACTOR_RANGE_M:
                found.append([x_m, y_m, float(np.dot(other.velocity, forward))])
        return found
