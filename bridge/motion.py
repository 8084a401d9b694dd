"""One decision for two worlds: the motion that the neural simulator takes, as a car's control.

A policy decides an `Action`, the motion that leads to the next frame: a speed and a yaw rate. The
neural simulator takes just that. A simulator with a car in it takes a steering and a throttle:
`control_for` turns the one into the other. So that both worlds can follow, `reachable` first cuts
the wish down to what the car can do within a frame.

The car is a kinematic bicycle (curvature = tan(wheel angle) / wheelbase) whose throttle and brake
are proportional to the acceleration. This module knows no world, no wire and no policy.
"""

from __future__ import annotations

import math

import numpy as np

from bridge.worlds import Car, Control, EgoState
from sim_stream.config import Action

MAX_LATERAL_MPS2 = 5.0
MAX_BRAKING_MPS2 = 6.0
HEADROOM = 0.85  # of the throttle: the rest is for catching up
CREEP_MPS = 1.0  # below this the curvature of a yaw rate says nothing


def reachable(car: Car, wish: Action, speed_mps: float, frame_s: float) -> Action:
    """The nearest motion that this car can reach within one frame at that speed."""
    gain_mps = HEADROOM * car.full_throttle_mps2 * frame_s
    loss_mps = min(MAX_BRAKING_MPS2, car.full_brake_mps2) * frame_s
    low_mps, high_mps = max(0.0, speed_mps - loss_mps), speed_mps + gain_mps
    next_mps = float(np.clip(wish.speed_mps, low_mps, high_mps))
    fastest_mps = max(speed_mps, next_mps)
    sharpest_per_m = math.tan(car.max_wheel_rad) / car.wheelbase_m
    limit_radps = min(MAX_LATERAL_MPS2 / max(fastest_mps, CREEP_MPS), sharpest_per_m * fastest_mps)
    yaw_rate_radps = float(np.clip(wish.yaw_rate_radps, -limit_radps, limit_radps))
    return Action(speed_mps=next_mps, yaw_rate_radps=yaw_rate_radps)


def control_for(car: Car, action: Action, ego: EgoState, frame_s: float) -> Control:
    """What to hold for one frame so that the car, moving as it does now, moves like that."""
    mean_mps = max(0.5 * (ego.speed_mps + action.speed_mps), CREEP_MPS)
    wheel_rad = math.atan(action.yaw_rate_radps / mean_mps * car.wheelbase_m)
    change_mps2 = (action.speed_mps - ego.speed_mps) / frame_s
    full_mps2 = car.full_throttle_mps2 if change_mps2 > 0 else car.full_brake_mps2
    return Control(
        steer=float(np.clip(wheel_rad / car.max_wheel_rad, -1.0, 1.0)),
        throttle=float(np.clip(change_mps2 / full_mps2, -1.0, 1.0)),
    )
