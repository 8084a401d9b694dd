"""One decision, two worlds: what a car can reach, and the control that makes it do so."""

from __future__ import annotations

import math

import pytest

from bridge.motion import control_for, reachable
from bridge.painted import CAR, PaintedWorld
from bridge.worlds import Control, EgoState
from sim_stream.config import Action

FRAME_S = 0.25
FASTER = Action(speed_mps=20.0, yaw_rate_radps=0.0)


def ego_at(speed_mps: float) -> EgoState:
    return EgoState(x_m=0.0, y_m=0.0, speed_mps=speed_mps, heading_rad=0.0, yaw_rate_radps=0.0)


@pytest.mark.parametrize("yaw_rate_radps", [0.3, -0.3, 0.0])
def test_a_reachable_motion_is_left_as_it_is(yaw_rate_radps: float) -> None:
    wish = Action(speed_mps=8.2, yaw_rate_radps=yaw_rate_radps)
    assert reachable(CAR, wish, 8.0, FRAME_S) == wish


def test_a_car_cannot_jump_to_a_speed_nor_stop_at_once() -> None:
    up, down = (
        reachable(CAR, w, 8.0, FRAME_S) for w in (FASTER, Action(speed_mps=0.0, yaw_rate_radps=0.0))
    )
    assert 8.0 < up.speed_mps < 8.0 + CAR.full_throttle_mps2 * FRAME_S
    assert 8.0 - CAR.full_brake_mps2 * FRAME_S <= down.speed_mps < 8.0


def test_speed_never_turns_negative() -> None:
    wish = Action(speed_mps=-5.0, yaw_rate_radps=0.0)
    assert reachable(CAR, wish, 0.2, FRAME_S).speed_mps == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("speed_mps", [0.0, 2.0, 15.0])
def test_a_turn_is_limited_by_grip_and_by_the_wheels(speed_mps: float, sign: float) -> None:
    wish = Action(speed_mps=speed_mps, yaw_rate_radps=9.0 * sign)
    turn = sign * reachable(CAR, wish, speed_mps, FRAME_S).yaw_rate_radps
    assert 0.0 <= turn * speed_mps <= 5.0 + 1e-9  # m/s2 of lateral acceleration
    assert turn <= math.tan(CAR.max_wheel_rad) / CAR.wheelbase_m * speed_mps + 1e-9


def test_a_standing_car_does_not_turn() -> None:
    assert (
        reachable(CAR, Action(speed_mps=0.0, yaw_rate_radps=1.0), 0.0, FRAME_S).yaw_rate_radps == 0
    )


@pytest.mark.parametrize("yaw_rate_radps", [0.0, 0.2, -0.35])
def test_the_control_makes_the_painted_car_move_as_decided(yaw_rate_radps: float) -> None:
    with PaintedWorld(size_px=16) as world:
        seen = world.reset(90_001)
        action = Action(speed_mps=seen.ego.speed_mps, yaw_rate_radps=0.0)
        for _ in range(12):
            wish = Action(speed_mps=6.0, yaw_rate_radps=yaw_rate_radps)
            action = reachable(CAR, wish, action.speed_mps, FRAME_S)
            seen = world.step(control_for(CAR, action, seen.ego, FRAME_S))
            # Its speed is an exact integral of the throttle; its yaw rate is that of the end's
            # speed, the control's of the mean speed: up to 0.32 m/s of 3 m/s or more, 11 %.
            assert seen.ego.speed_mps == pytest.approx(action.speed_mps, abs=1e-9)
            assert seen.ego.yaw_rate_radps == pytest.approx(action.yaw_rate_radps, rel=0.11)


def test_a_lagging_car_catches_up_in_one_frame() -> None:
    action = Action(speed_mps=8.0, yaw_rate_radps=0.0)
    assert control_for(CAR, action, ego_at(7.7), FRAME_S).throttle == pytest.approx(0.4)
    assert control_for(CAR, action, ego_at(8.3), FRAME_S).throttle == pytest.approx(-0.2)


def test_an_impossible_motion_gives_the_most_that_a_control_can() -> None:
    impossible = Action(speed_mps=50.0, yaw_rate_radps=50.0)
    assert control_for(CAR, impossible, ego_at(1.0), FRAME_S) == Control(steer=1.0, throttle=1.0)
