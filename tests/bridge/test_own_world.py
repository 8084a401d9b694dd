"""`--world MODULE:CALLABLE`: a user's simulator drives and is recorded, or is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.__main__ import main
from bridge.own_world import OwnRoadWorld, WorldFailed, open_own
from bridge.painted import PaintedWorld
from bridge.worlds import Control, RoadWorld, World
from sim_stream.errors import InvalidInput
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import ToyModel

ROOT = Path(__file__).resolve().parents[2]
CRUISE = Control(steer=0.0, throttle=0.5)
MODULE = """
import dataclasses
from bridge.painted import PaintedWorld
from bridge.worlds import SceneFailed

class Mine(PaintedWorld):
    pass

def closed(size_px):
    Closed.last = Closed(size_px=size_px)
    return Closed.last

class Closed(PaintedWorld):
    def close(self):
        self.times = getattr(self, "times", 0) + 1

class Bare:  # a World that knows no road
    def __init__(self, size_px):
        self._painted = PaintedWorld(size_px=size_px)
        self.fps, self.car = 4.0, self._painted.car
        self.reset, self.step, self.close = (
            self._painted.reset, self._painted.step, self._painted.close
        )

def nothing(size_px):
    return None

def half(size_px):
    return object()

def needs_more(size_px, town):
    return Mine(size_px=size_px)

class Breaks(PaintedWorld):
    def __init__(self, size_px):
        raise OSError("no licence")

class Stalls(PaintedWorld):
    def step(self, control):
        return 1 / 0

class Blind(PaintedWorld):
    def step(self, control):
        return dataclasses.replace(super().step(control), frame=None)

class Carless(PaintedWorld):
    car = "a fast one"

class Fails(PaintedWorld):
    def reset(self, seed):
        raise SceneFailed("no such scene")

number = 7
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module in it, which is where the command runs."""
    (tmp_path / "town.py").write_text(MODULE)
    (tmp_path / "breaks_at_once.py").write_text("x = 1\nassert x == 2, 'not two'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("town", "breaks_at_once", "field"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        yield server


def drive(server: StreamServer, world: str, *more: str) -> int:
    base = ["drive", "--server", server.endpoint, "--out", "d.mp4", "--world", world]
    return main([*base, "--lead-in", "2", "--frames", "3", *more])


def test_a_world_of_ones_own_drives(
    server: StreamServer, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(server, "town:closed") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["world"], summary["frames"]) == ("town:closed", 3)
    assert "on_road_s" in summary["drives"][0]  # it is a RoadWorld
    assert sys.modules["town"].Closed.last.times == 1

    assert drive(server, "town:Bare") == 0
    (one,) = json.loads(capsys.readouterr().out.splitlines()[-1])["drives"]
    assert one["frames"] == 3 and "on_road_s" not in one


def test_the_readmes_world_drives(
    server: StreamServer, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "bridge" / "README.md").read_text()
    (code,) = (part for part in page.split("```")[1::2] if "class Field" in part)
    (mine / "field.py").write_text(code.removeprefix("python\n"))
    assert drive(server, "field:Field") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 3


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("paint", "world: got paint; allowed: carla, metadrive, painted, video, or MODULE:CALL"),
        ("no_such_module:World", "world: got no_such_module:World (No module named"),
        ("town:Gone", "world: got town:Gone (module 'town' has no attribute 'Gone')"),
        ("town:number", "world: got town:number, a int; allowed: "),
        (":Mine", "world: got :Mine; allowed: "),
        ("breaks_at_once:World", "importing it raised AssertionError: not two (line 2 of"),
    ],
)
@pytest.mark.parametrize("subcommand", ["drive", "record"])
def test_a_world_that_is_not_there_is_refused_before_anything_starts(
    subcommand: str, world: str, said: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {
        "drive": ("--server", "tcp://127.0.0.1:1"),
        "record": ("--out", "out", "--drives", "1", "--split", "train"),
    }
    said = said.replace(", video", "") if subcommand == "record" else said
    assert main([subcommand, "--world", world, *rest[subcommand]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bridge {subcommand}: ") and said in line


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("town:nothing", "world: got town:nothing, which gives None; allowed: a callable that giv"),
        ("town:half", "world: got town:half, which gives <object object at"),
        ("town:needs_more", "world town:needs_more: could not be made: TypeError: "),
        ("town:Breaks", "world town:Breaks: could not be made: OSError: no licence (line "),
        ("town:Carless", "world town:Carless: car: got 'a fast one'; allowed: a Car or None"),
        ("town:Stalls", "world town:Stalls raised ZeroDivisionError: division by zero (line "),
        ("town:Blind", "world town:Blind returned: got Observation(frame=None"),
        ("town:Fails", "no such scene"),
    ],
)
def test_a_world_that_is_none_or_breaks_is_said_in_one_line(
    server: StreamServer, world: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(server, world) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bridge drive: ") and said in line


def test_a_failed_scene_of_ones_own_is_one_of_several(
    server: StreamServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drive(server, "town:Fails", "--drives", "2") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ends"] == {"failed": 2}


def test_a_road_world_of_ones_own_is_recorded(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["record", "--out", "out", "--drives", "1", "--split", "train", "--size", "16"]
    assert main([*base, "--frames", "24", "--world", "town:Mine"]) == 0
    assert [path.stem for path in (mine / "out").rglob("*.mov")] == ["town.Mine-000000"]
    capsys.readouterr()
    assert main([*base, "--world", "town:Bare"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "town:Bare, which gives <town.Bare" in line and "close, road, describe" in line


def test_what_is_wrapped_is_what_the_user_gave() -> None:
    world = open_own(PaintedWorld, "bridge.painted:PaintedWorld", 64)
    assert isinstance(world, RoadWorld) and isinstance(world, OwnRoadWorld)
    plain = PaintedWorld(size_px=64)
    assert world.reset(7).ego == plain.reset(7).ego
    assert world.step(CRUISE).ego == plain.step(CRUISE).ego
    assert world.road().lane_width_m == plain.road().lane_width_m
    assert world.describe(7) == plain.describe(7)
    with pytest.raises(InvalidInput, match=r"size_px: got 2; allowed: 16 or more"):
        open_own(PaintedWorld, "bridge.painted:PaintedWorld", 2)
    world._world.road = lambda: None
    with pytest.raises(
        InvalidInput, match="PaintedWorld returned: got 'None'; allowed: a RoadView"
    ):
        world.road()
    world._world.describe = lambda seed: [][seed]
    with pytest.raises(WorldFailed, match="PaintedWorld raised IndexError"):
        world.describe(7)


def test_a_world_needs_no_context_manager() -> None:
    import town  # type: ignore[import-not-found]

    assert isinstance(town.Bare(size_px=64), World)
    assert not hasattr(World, "__enter__")
