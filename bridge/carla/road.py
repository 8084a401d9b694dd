"""The road around the car, from CARLA's map.

The nearest driving lane's centreline, followed along its own direction; at a junction the first
branch, as CARLA plans no route for us. Knows the map's waypoints and the actors, nothing of ticks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import carla
import numpy as np
import numpy.typing as npt

from bridge.carla.convert import in_car_frame
from bridge.worlds import RoadView

PATH_STEP_M, PATH_POINTS = 2.0, 30
ACTOR_RANGE_M = 60.0
Beside = Callable[[carla.Waypoint], carla.Waypoint | None]


def road_view(world: carla.World, town: carla.Map, ego: carla.Vehicle) -> RoadView:
    """What bridge/worlds.py calls a RoadView; `town` is the world's map."""
    transform = ego.get_transform()
    waypoint = town.get_waypoint(transform.location)
    path = [waypoint]
    while len(path) < PATH_POINTS:
        further = path[-1].next(PATH_STEP_M)
        if not further:
            break
        path.append(further[0])
    return RoadView(
        path_m=in_car_frame([point.transform.location for point in path], transform),
        lane_width_m=float(waypoint.lane_width),
        lanes_left=_lanes_beside(waypoint, carla.Waypoint.get_left_lane),
        lanes_right=_lanes_beside(waypoint, carla.Waypoint.get_right_lane),
        actors=_actors(world, ego, transform),
    )


def _lanes_beside(waypoint: carla.Waypoint, beside: Beside) -> int:
    """Driving lanes of the same direction; across the middle of a road lane ids change sign."""
    count, lane = 0, beside(waypoint)
    while (
        lane is not None
        and lane.lane_type == carla.LaneType.Driving
        and (lane.lane_id > 0) == (waypoint.lane_id > 0)
    ):
        count, lane = count + 1, beside(lane)
    return count


def _actors(
    world: carla.World, ego: carla.Vehicle, transform: carla.Transform
) -> npt.NDArray[np.float64]:
    """Other vehicles near the car: x, y and speed along the car's own heading."""
    yaw_rad = math.radians(transform.rotation.yaw)
    found = []
    for other in world.get_actors().filter("vehicle.*"):
        ((x_m, y_m),) = in_car_frame([other.get_transform().location], transform)
        if other.id != ego.id and math.hypot(x_m, y_m) < ACTOR_RANGE_M:
            velocity = other.get_velocity()
            along_mps = velocity.x * math.cos(yaw_rad) + velocity.y * math.sin(yaw_rad)
            found.append((x_m, y_m, along_mps))
    return np.array(found, dtype=np.float64).reshape(-1, 3)
