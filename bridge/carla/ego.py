"""The car that we drive in CARLA, its front camera and its collision sensor: made and destroyed.

No autopilot drives it. The camera is the one that all worlds here share (bridge/camera.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import carla

from bridge.camera import Camera
from bridge.carla.convert import ego_state, rgb, vehicle_control
from bridge.carla.sensors import EventCount, SensorQueue
from bridge.worlds import Car, Control, EgoState, SceneFailed

VEHICLE = "vehicle.tesla.model3"
Spawned = TypeVar("Spawned", bound=carla.Actor)
# Wheelbase and steering angle as the maker and CARLA's default state them; the accelerations are
# guesses: there was no server to measure them on.
CAR = Car(
    wheelbase_m=2.875,
    max_wheel_rad=math.radians(70.0),
    full_throttle_mps2=4.0,
    full_brake_mps2=8.0,
)


class Ego:
    """Spawned at construction; `destroy` removes the car and its sensors, in reverse order."""

    def __init__(self, world: carla.World, spawn_point: carla.Transform, *, size_px: int) -> None:
        self._world = world
        self._made = ExitStack()
        self.camera, self.collisions = SensorQueue("camera"), EventCount()
        library = world.get_blueprint_library()
        with ExitStack() as on_failure:
            on_failure.callback(self.destroy)
            self.vehicle = self._spawn(library.find(VEHICLE), spawn_point, carla.Vehicle)
            self._made.callback(self.camera.close)
            self._listen(self.camera.put, *self._camera(library, size_px))
            at_centre = carla.Transform(carla.Location(x=0.0, y=0.0, z=0.0))
            self._listen(self.collisions.put, library.find("sensor.other.collision"), at_centre)
            on_failure.pop_all()

    def start(self, speed_mps: float) -> None:
        """Gives it that speed along its heading."""
        forward = self.vehicle.get_transform().get_forward_vector()
        self.vehicle.set_target_velocity(
            carla.Vector3D(x=forward.x * speed_mps, y=forward.y * speed_mps, z=0.0)
        )

    def apply(self, control: Control) -> None:
        self.vehicle.apply_control(carla.VehicleControl(**vehicle_control(control)))

    def state(self) -> EgoState:
        vehicle = self.vehicle
        return ego_state(
            vehicle.get_transform(), vehicle.get_velocity(), vehicle.get_angular_velocity()
        )

    def image(self, frame: int, timeout_s: float) -> Any:
        """The camera's frame of that tick, uint8 [H, W, 3], RGB. Raises SceneFailed."""
        return rgb(self.camera.take(frame, timeout_s))

    def destroy(self) -> None:
        """Idempotent. What was made last goes first; one failure does not keep the others."""
        self._made.close()

    def _camera(
        self, library: carla.BlueprintLibrary, size_px: int
    ) -> tuple[carla.ActorBlueprint, carla.Transform]:
        """Its blueprint and where on the car it is."""
        camera = Camera()
        blueprint = library.find("sensor.camera.rgb")
        for name, value in (
            ("image_size_x", size_px),
            ("image_size_y", size_px),
            ("fov", camera.field_of_view_deg),
        ):
            blueprint.set_attribute(name, str(value))
        place = carla.Location(x=camera.forward_m, y=0.0, z=camera.up_m)
        turned = carla.Rotation(pitch=-camera.pitch_down_deg, yaw=0.0, roll=0.0)
        return blueprint, carla.Transform(place, turned)

    def _spawn(
        self,
        blueprint: carla.ActorBlueprint,
        place: carla.Transform,
        kind: type[Spawned],
        parent: carla.Actor | None = None,
    ) -> Spawned:
        actor = self._world.try_spawn_actor(blueprint, place, attach_to=parent)
        if actor is None:
            raise SceneFailed(f"CARLA: something stands where {blueprint.id} should be spawned")
        self._made.callback(actor.destroy)
        assert isinstance(actor, kind), f"{blueprint.id} is a {type(actor).__name__}"
        return actor

    def _listen(
        self,
        callback: Callable[[Any], None],
        blueprint: carla.ActorBlueprint,
        place: carla.Transform,
    ) -> None:
        sensor = self._spawn(blueprint, place, carla.Sensor, self.vehicle)
        self._made.callback(sensor.stop)  # before it is destroyed: a listening one leaves a thread
        sensor.listen(callback)
