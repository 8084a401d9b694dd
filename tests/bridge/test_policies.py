"""Policies: found by name, held to what they may return, and the one that ships keeps its lane."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bridge.motion import control_for, reachable
from bridge.painted import PaintedWorld
from bridge.policies.contract import Policy, PolicyFailed
from bridge.policies.lane_keep import ENOUGH_MARKED, LaneKeep
from bridge.worlds import Control
from sim_stream.config import Action
from sim_stream.errors import InvalidInput, SimStreamError

FRAME = np.zeros((32, 32, 3), np.uint8)
LAST = Action(speed_mps=5.0, yaw_rate_radps=0.0)
MODULE = """
from sim_stream.config import Action

def pair(frame, last):
    return last.speed_mps + 1, -0.1

def action(frame, last):
    return Action(speed_mps=3.0, yaw_rate_radps=0.2)

def paints(frame, last):
    frame[:] = 255
    return 1.0, 0.0

def divides(frame, last):
    return 1 / 0

class Counts:
    def __init__(self):
        self.calls = 0
    def __call__(self, frame, last):
        self.calls += 1
        return float(self.calls), 0.0

class Cannot:
    def __init__(self):
        raise OSError("no such weights")

class Uncallable:
    pass

number = 7
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of a user's."""
    (tmp_path / "my_policies.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_policies", raising=False)
    return "my_policies"


def started(name: str) -> Policy:
    policy = Policy(name)
    policy.start()
    return policy


def test_a_pair_and_an_action_are_both_an_answer(mine: str) -> None:
    assert started(f"{mine}:pair")(FRAME, LAST) == Action(speed_mps=6.0, yaw_rate_radps=-0.1)
    assert started(f"{mine}:action")(FRAME, LAST) == Action(speed_mps=3.0, yaw_rate_radps=0.2)


def test_a_class_is_made_anew_for_every_drive(mine: str) -> None:
    policy = started(f"{mine}:Counts")
    assert [policy(FRAME, LAST).speed_mps for _ in range(3)] == [1.0, 2.0, 3.0]
    policy.start()
    assert policy(FRAME, LAST).speed_mps == 1.0


def test_what_a_policy_paints_on_its_frame_nobody_else_sees(mine: str) -> None:
    started(f"{mine}:paints")(FRAME, LAST)
    assert not FRAME.any()


def test_an_error_in_a_policy_names_its_line(mine: str) -> None:
    with pytest.raises(
        PolicyFailed, match=r"raised ZeroDivisionError.*line 15 of .*my_policies.py"
    ):
        started(f"{mine}:divides")(FRAME, LAST)
    with pytest.raises(PolicyFailed, match="could not be made: OSError: no such weights"):
        started(f"{mine}:Cannot")


@pytest.mark.parametrize(
    "nonsense",
    [None, 3.0, "left", (1.0,), (1.0, 2.0, 3.0), (float("nan"), 0.0), (-1.0, 0.0), {"speed": 1}],
)
def test_nonsense_is_refused_with_what_is_allowed(
    mine: str, monkeypatch: pytest.MonkeyPatch, nonsense: object
) -> None:
    policy = started(f"{mine}:pair")
    monkeypatch.setattr(policy, "_decide", lambda frame, last: nonsense)
    with pytest.raises(InvalidInput, match=r"pair returned: got .*pair of finite numbers"):
        policy(FRAME, LAST)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lanekeep", "lane-keep"),
        ("no_such_module:drive", "No module named"),
        ("my_policies:nothing", "no attribute 'nothing'"),
        ("my_policies:number", "a int"),
        (":drive", "MODULE:CALLABLE"),
        ("my_policies:", "MODULE:CALLABLE"),
    ],
)
def test_a_policy_that_is_not_there_is_refused(mine: str, name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Policy(name)


def test_a_class_that_cannot_be_called_is_refused(mine: str) -> None:
    with pytest.raises(InvalidInput, match="without __call__"):
        started(f"{mine}:Uncallable")


def test_a_module_that_fails_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_at_once.py").write_text("x = 1\nassert x == 2, 'not two'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PolicyFailed, match=r"AssertionError: not two \(line 2"):
        Policy("breaks_at_once:drive")


def test_failures_are_members_of_the_one_tree() -> None:
    assert issubclass(PolicyFailed, SimStreamError)


@pytest.mark.parametrize("off_m", [-0.9, 0.9])
def test_lane_keep_goes_back_to_the_middle_and_stays_there(off_m: float) -> None:
    with PaintedWorld(size_px=256) as world:
        seen = world.reset(90_001)
        world._y_m += off_m
        seen = world.step(Control(steer=0.0, throttle=0.5))
        keep, last = LaneKeep(), Action(speed_mps=seen.ego.speed_mps, yaw_rate_radps=0.0)
        offsets_m = []
        for _ in range(40):
            last = reachable(world.car, keep(seen.frame, last), last.speed_mps, 0.25)
            seen = world.step(control_for(world.car, last, seen.ego, 0.25))
            offsets_m.append(-world.road().path_m[0, 1])
    assert max(abs(offset_m) for offset_m in offsets_m) < 1.3
    assert np.abs(offsets_m[-10:]).max() < 0.35  # a step of the finder's table, twice


def test_lane_keep_drives_on_along_the_lane_it_saw_when_it_sees_none() -> None:
    with PaintedWorld(size_px=256) as world:
        world.reset(90_001)
        keep = LaneKeep()
        keep(world.step(Control(steer=0.0, throttle=0.0)).frame, LAST)
    seen = keep.lane
    action = keep(np.full((256, 256, 3), 70, np.uint8), LAST)
    assert keep.lane is not None and seen is not None
    assert keep.lane.marked < ENOUGH_MARKED < seen.marked
    assert keep.lane.offset_m == pytest.approx(seen.left_m(5.0 * 0.25), abs=1e-9)
    assert abs(action.yaw_rate_radps) < 0.1


def test_the_readmes_policy_stays_on_the_painted_road(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "bridge" / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    policy = started("mine:Calm")
    with PaintedWorld(size_px=128) as world:
        seen = world.reset(90_001)
        last = Action(speed_mps=seen.ego.speed_mps, yaw_rate_radps=0.0)
        for _ in range(30):
            last = reachable(world.car, policy(seen.frame, last), last.speed_mps, 0.25)
            seen = world.step(control_for(world.car, last, seen.ego, 0.25))
            assert not seen.done
    assert seen.ego.speed_mps == pytest.approx(6.0, abs=0.1)
