"""A stand-in for CARLA's client package: a server in this process, for tests without one.

Same names and signatures as the real package for all that bridge/carla uses (a test compares them).
The world is an endless straight road along x with two lanes of 3.5 m each way; cars are kinematic.
Sensors call back from a thread of their own, as CARLA's do, and a test says how badly.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator
from enum import IntFlag
from typing import Any

LANE_M = 3.5


class LaneType(IntFlag):
    Driving = 2
    Sidewalk = 32


class AttachmentType(int):
    Rigid = 0


class Vector3D:
    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> None:
        self.x, self.y, self.z = x, y, z


class Location(Vector3D):
    pass


class Rotation:
    def __init__(self, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> None:
        self.pitch, self.yaw, self.roll = pitch, yaw, roll


class Transform:
    def __init__(self, location: Location | None = None, rotation: Rotation | None = None) -> None:
        self.location, self.rotation = location or Location(), rotation or Rotation()

    def get_forward_vector(self) -> Vector3D:
        yaw_rad = math.radians(self.rotation.yaw)
        return Vector3D(math.cos(yaw_rad), math.sin(yaw_rad), 0.0)


class VehicleControl:
    def __init__(
        self,
        throttle: float = 0.0,
        steer: float = 0.0,
        brake: float = 0.0,
        hand_brake: bool = False,
        reverse: bool = False,
        manual_gear_shift: bool = False,
        gear: int = 0,
    ) -> None:
        self.throttle, self.steer, self.brake = throttle, steer, brake


class WorldSettings:
    def __init__(self) -> None:
        self.synchronous_mode = False
        self.fixed_delta_seconds: float | None = None
        self.substepping = True
        self.max_substep_delta_time, self.max_substeps = 0.01, 10


class SensorData:
    def __init__(self, frame: int) -> None:
        self.frame = frame


class Image(SensorData):
    def __init__(self, frame: int, side: int) -> None:
        super().__init__(frame)
        self.width = self.height = side
        blue, green, red, alpha = frame % 256, 20, 30, 255
        self.raw_data = bytes([blue, green, red, alpha]) * side * side


class ActorBlueprint:
    def __init__(self, id: str) -> None:
        self.id = id
        self.attributes: dict[str, str] = {}

    def set_attribute(self, id: str, value: str) -> None:
        self.attributes[id] = value


class BlueprintLibrary:
    def find(self, id: str) -> ActorBlueprint:
        return ActorBlueprint(id)


class Actor:
    def __init__(self, world: World, blueprint: ActorBlueprint, transform: Transform) -> None:
        self.id = world.server.new_id()
        self.world, self.blueprint, self.transform = world, blueprint, copy.deepcopy(transform)
        self.velocity, self.angular = Vector3D(), Vector3D()

    def destroy(self) -> bool:
        self.world.server.did(f"destroy {self.blueprint.id}")
        self.world.server.actors.remove(self)
        return True

    def get_transform(self) -> Transform:
        return copy.deepcopy(self.transform)

    def get_velocity(self) -> Vector3D:
        return copy.copy(self.velocity)

    def get_angular_velocity(self) -> Vector3D:
        return copy.copy(self.angular)

    def set_target_velocity(self, velocity: Vector3D) -> None:
        self.velocity = copy.copy(velocity)


class Vehicle(Actor):
    control = VehicleControl()

    def apply_control(self, control: VehicleControl) -> None:
        self.control = control

    def move(self, seconds: float) -> None:
        """Left-handed: positive steering turns right, which is a growing yaw."""
        speed = math.hypot(self.velocity.x, self.velocity.y)
        control = self.control
        speed = max(0.0, speed + (4.0 * control.throttle - 8.0 * control.brake) * seconds)
        yaw_rate = math.tan(control.steer * math.radians(70.0)) / 2.875 * speed
        self.transform.rotation.yaw += math.degrees(yaw_rate * seconds)
        forward = self.transform.get_forward_vector()
        self.velocity = Vector3D(forward.x * speed, forward.y * speed, 0.0)
        self.angular = Vector3D(0.0, 0.0, math.degrees(yaw_rate))
        self.transform.location.x += forward.x * speed * seconds
        self.transform.location.y += forward.y * speed * seconds


class Sensor(Actor):
    callback: Callable[[Any], Any] | None = None

    def listen(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback

    def stop(self) -> None:
        self.world.server.did(f"stop {self.blueprint.id}")
        self.callback = None

    def send(self, data: SensorData) -> None:
        callback = self.callback
        if callback is not None:
            callback(data)


class ActorList:
    def __init__(self, actors: list[Actor]) -> None:
        self.actors = actors

    def filter(self, wildcard_pattern: str) -> ActorList:
        prefix = wildcard_pattern.removesuffix("*")
        return ActorList([a for a in self.actors if a.blueprint.id.startswith(prefix)])

    def __iter__(self) -> Iterator[Actor]:
        return iter(self.actors)


class Waypoint:
    """Lanes -2 and -1 run along x, to the right of y = 0 (which is positive y); 1 and 2 against."""

    lane_width = LANE_M
    lane_type = LaneType.Driving

    def __init__(self, x: float, lane_id: int) -> None:
        y = (-lane_id - 0.5 if lane_id < 0 else -lane_id + 0.5) * LANE_M
        self.lane_id = lane_id
        self.transform = Transform(Location(x, y, 0.0), Rotation(yaw=0.0 if lane_id < 0 else 180.0))

    def next(self, distance: float) -> list[Waypoint]:
        along = distance if self.lane_id < 0 else -distance
        return [Waypoint(self.transform.location.x + along, self.lane_id)]

    def get_left_lane(self) -> Waypoint | None:
        # Left of lane -1 is lane 1, across the middle; left of lane 1 is lane -1.
        left = {-2: -1, -1: 1, 2: 1, 1: -1}[self.lane_id]
        return Waypoint(self.transform.location.x, left)

    def get_right_lane(self) -> Waypoint | None:
        right = {-1: -2, 1: 2}.get(self.lane_id)
        return None if right is None else Waypoint(self.transform.location.x, right)


class Map:
    name = "Carla/Maps/StandIn"

    def get_spawn_points(self) -> list[Transform]:
        return [Waypoint(100.0 * n, -1).transform for n in range(5)]

    def get_waypoint(
        self, location: Location, project_to_road: bool = True, lane_type: Any = LaneType.Driving
    ) -> Waypoint:
        lanes = (-2, -1, 1, 2)
        lane = min(lanes, key=lambda i: abs(Waypoint(0.0, i).transform.location.y - location.y))
        return Waypoint(location.x, lane)


class World:
    def __init__(self, server: Server) -> None:
        self.server = server

    def get_settings(self) -> WorldSettings:
        return copy.copy(self.server.settings)

    def apply_settings(self, world_settings: WorldSettings) -> int:
        self.server.settings = copy.copy(world_settings)
        self.server.did(f"settings sync={world_settings.synchronous_mode}")
        return self.server.frame

    def get_map(self) -> Map:
        return Map()

    def get_blueprint_library(self) -> BlueprintLibrary:
        return BlueprintLibrary()

    def get_actors(self, actor_ids: list[int] | None = None) -> ActorList:
        return ActorList(list(self.server.actors))

    def try_spawn_actor(
        self,
        blueprint: ActorBlueprint,
        transform: Transform,
        attach_to: Actor | None = None,
        attachment_type: Any = AttachmentType.Rigid,
    ) -> Actor | None:
        if blueprint.id in self.server.refuses:
            return None
        kind = Sensor if blueprint.id.startswith("sensor") else Vehicle
        actor = kind(self, blueprint, transform)
        self.server.actors.append(actor)
        return actor

    def tick(self, seconds: float = 10.0) -> int:
        return self.server.tick()


class Client:
    server: Server | None = None  # the one server of a test

    def __init__(self, host: str = "127.0.0.1", port: int = 2000, worker_threads: int = 0) -> None:
        pass

    def set_timeout(self, second: float) -> None:
        self.timeout_s = second

    def get_client_version(self) -> str:
        return "0.9.16"

    def get_server_version(self) -> str:
        return self._server().version

    def get_world(self) -> World:
        return World(self._server())

    def load_world(
        self, map_name: str, reset_settings: bool = True, map_layers: Any = None
    ) -> World:
        self._server().did(f"load {map_name}")
        return World(self._server())

    def _server(self) -> Server:
        if self.server is None:
            raise RuntimeError("time-out of 1000ms while waiting for the simulator")
        return self.server


class Server:
    """What a test looks at and breaks. `send(sensor, image)` is called on a thread of its own."""

    version = "0.9.16"

    def __init__(self) -> None:
        self.settings = WorldSettings()
        self.frame = 100
        self.actors: list[Actor] = []
        self.refuses: set[str] = set()
        self.log: list[str] = []
        self.send: Callable[[Sensor, Image], None] = lambda sensor, image: sensor.send(image)
        self.on_tick: Callable[[], None] = lambda: None
        self.threads: list[threading.Thread] = []
        self._ids = 0

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    def did(self, what: str) -> None:
        self.log.append(what)

    def tick(self) -> int:
        self.on_tick()
        self.frame += 1
        for actor in self.actors:
            if isinstance(actor, Vehicle):
                actor.move(self.settings.fixed_delta_seconds or 0.0)
        for sensor in self.sensors("sensor.camera"):
            side = int(sensor.blueprint.attributes["image_size_x"])
            thread = threading.Thread(target=self.send, args=(sensor, Image(self.frame, side)))
            self.threads.append(thread)
            thread.start()
        return self.frame

    def sensors(self, prefix: str) -> list[Sensor]:
        return [
            a for a in self.actors if isinstance(a, Sensor) and a.blueprint.id.startswith(prefix)
        ]
