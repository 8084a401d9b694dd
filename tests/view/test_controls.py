"""Keys to actions."""

from __future__ import annotations

import pytest

from sim_stream.view.controls import (
    ACCELERATION_MPS2,
    NO_KEYS,
    YAW_MAX_RADPS,
    Controls,
    HeldKeys,
)

PERIOD_S = 0.25


def controls(**changes: float) -> Controls:
    return Controls(**({"speed_mps": 8.0, "highest_mps": 32.0} | changes))


def test_no_keys_keep_the_speed_and_drive_straight():
    action = controls().next_action(PERIOD_S)
    assert (action.speed_mps, action.yaw_rate_radps) == (8.0, 0.0)


def test_up_accelerates_per_second_of_simulated_time():
    ours = controls()
    ours.hold(HeldKeys(up=True))
    for _ in range(4):
        action = ours.next_action(PERIOD_S)
    assert action.speed_mps == 8.0 + ACCELERATION_MPS2


@pytest.mark.parametrize(("keys", "end_mps"), [({"up": True}, 32.0), ({"down": True}, 0.0)])
def test_speed_stays_within_what_the_model_takes(keys, end_mps):
    ours = controls()
    ours.hold(HeldKeys(**keys))
    for _ in range(100):
        action = ours.next_action(PERIOD_S)
    assert action.speed_mps == end_mps


@pytest.mark.parametrize(("key", "sign"), [("left", 1), ("right", -1)])
def test_steering_goes_to_full_lock_and_back_to_straight(key, sign):
    ours = controls()
    ours.hold(HeldKeys(**{key: True}))
    held = [ours.next_action(PERIOD_S).yaw_rate_radps for _ in range(4)]
    assert 0 < sign * held[0] < sign * held[1] <= YAW_MAX_RADPS
    assert held[-1] == pytest.approx(sign * YAW_MAX_RADPS)
    ours.hold(NO_KEYS)
    freed = [ours.next_action(PERIOD_S).yaw_rate_radps for _ in range(4)]
    assert freed[-1] == 0.0


def test_opposite_keys_cancel_out():
    ours = controls()
    ours.hold(HeldKeys(up=True, down=True, left=True, right=True))
    action = ours.next_action(PERIOD_S)
    assert (action.speed_mps, action.yaw_rate_radps) == (8.0, 0.0)


def test_a_tap_between_two_steps_counts_for_one_step():
    ours = controls()
    ours.hold(HeldKeys(up=True))
    ours.hold(NO_KEYS)
    tapped, after = ours.next_action(PERIOD_S), ours.next_action(PERIOD_S)
    assert tapped.speed_mps == after.speed_mps > 8.0


def test_a_fork_continues_the_motion_with_no_key_held():
    ours = controls()
    ours.hold(HeldKeys(up=True))
    moved = ours.next_action(PERIOD_S)
    assert ours.copy().next_action(PERIOD_S).speed_mps == moved.speed_mps
    assert ours.next_action(PERIOD_S).speed_mps > moved.speed_mps
