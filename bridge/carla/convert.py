"""CARLA's left-handed frame and ISO 8855: x is the same, y points the other way, angles turn back.

CARLA (Unreal) has x forward, y right, z up and yaw in degrees, clockwise from above; ISO 8855 has y
left and angles counter-clockwise, here in radians. Values in, values out; knows no actor.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from bridge.worlds import Control, EgoState
from sim_stream.errors import Unavailable

if TYPE_CHECKING:
    import carla


class VehicleControlFields(TypedDict):
    """Of `carla.VehicleControl`, the ones that we set."""

    steer: float
    throttle: float
    brake: float


def ego_state(
    transform: carla.Transform, velocity: carla.Vector3D, angular_velocity: carla.Vector3D
) -> EgoState:
    """The car's state; velocities in m/s and deg/s."""
    return EgoState(
        x_m=transform.location.x,
        y_m=-transform.location.y,
        speed_mps=math.hypot(velocity.x, velocity.y),
        heading_rad=-math.radians(transform.rotation.yaw),
        yaw_rate_radps=-math.radians(angular_velocity.z),
    )


def in_car_frame(
    places: list[carla.Location], transform: carla.Transform
) -> npt.NDArray[np.float64]:
    """(N, 2): places as x forward, y left of the car at that transform."""
    here, yaw_rad = transform.location, math.radians(transform.rotation.yaw)
    east = np.array([place.x - here.x for place in places], dtype=np.float64)
    south = np.array([place.y - here.y for place in places], dtype=np.float64)
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.stack([cos * east + sin * south, sin * east - cos * south], axis=1)


def vehicle_control(control: Control) -> VehicleControlFields:
    """The fields of `carla.VehicleControl`, whose steering is positive to the right."""
    return {
        "steer": -control.steer,
        "throttle": max(0.0, control.throttle),
        "brake": max(0.0, -control.throttle),
    }


def rgb(image: carla.Image) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB, of an image whose bytes are BGRA. Raises Unavailable."""
    if len(image.raw_data) != image.height * image.width * 4:
        raise Unavailable(
            f"CARLA's camera gave {len(image.raw_data)} bytes for {image.width}x{image.height} "
            "pixels; a server that renders nothing (-nullrhi, no_rendering_mode) has no pictures"
        )
    pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
    return np.ascontiguousarray(pixels[..., 2::-1])
