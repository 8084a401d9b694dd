"""CarlaWorld without a server: sensors that misbehave, the frame's handedness, an orderly end.

Everything runs against a stand-in (carla_stand_in.py) whose signatures a test holds to the client
package's own, and so are our calls, by the type check. Where the package can be fetched, its stub
is compared with the committed list, and the real client meets a server that is not there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.__main__ import main
from bridge.carla.convert import ego_state, in_car_frame, vehicle_control
from bridge.carla.sensors import MOST_WAITING, EventCount, SensorQueue
from bridge.motion import control_for
from bridge.scenarios import scenario_of
from bridge.worlds import Control, RoadWorld, SceneFailed
from sim_stream.config import Action
from sim_stream.errors import InvalidInput, SessionClosed, Unavailable
from sim_stream.wire.server.server import StreamServer
from tests.bridge import carla_package, carla_stand_in
from tests.bridge.carla_stand_in import Image, Sensor, Server
from tests.engines.tensorrt_bindings import NotFetched
from tests.wire.toy import ToyModel

ROOT = Path(__file__).resolve().parents[2]
LISTED = json.loads(carla_package.NAMES.read_text())[carla_package.VERSION]
STRAIGHT = Control(steer=0.0, throttle=0.5)
SEED = 3


# One sensor's queue.


def data(frame: int) -> Image:
    return Image(frame, 2)


def later(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def test_late_data_is_waited_for() -> None:
    queue, image = SensorQueue("camera"), data(7)
    later(0.05, lambda: queue.put(image))
    assert queue.take(7, timeout_s=5) is image


def test_lost_data_is_an_error_that_names_sensor_and_frame() -> None:
    queue = SensorQueue("camera")
    with pytest.raises(SceneFailed, match=r"camera sent nothing for frame 7 .* nothing newer came"):
        queue.take(7, timeout_s=0.02)
    queue.put(data(8))
    with pytest.raises(SceneFailed, match="frame 8 came instead"):
        queue.take(7, timeout_s=0.02)
    assert queue.take(8, timeout_s=0.02).frame == 8  # the newer one was kept


def test_doubled_data_is_handed_out_once() -> None:
    queue, first = SensorQueue("camera"), data(7)
    queue.put(first)
    queue.put(data(7))
    assert queue.take(7, timeout_s=1) is first
    queue.put(data(7))
    with pytest.raises(SceneFailed):
        queue.take(7, timeout_s=0.02)
    assert (queue.doubled, queue.stale) == (1, 1)


def test_data_out_of_order_comes_out_in_order() -> None:
    queue = SensorQueue("camera")
    for frame in (9, 7, 8):
        queue.put(data(frame))
    assert [queue.take(frame, timeout_s=1).frame for frame in (7, 8, 9)] == [7, 8, 9]


def test_data_of_skipped_frames_is_thrown_away_and_counted() -> None:
    queue = SensorQueue("camera")
    for frame in (5, 6, 7, 8):
        queue.put(data(frame))
    assert queue.take(7, timeout_s=1).frame == 7
    queue.put(data(6))  # late, and behind us
    assert queue.stale == 3
    assert queue.take(8, timeout_s=1).frame == 8


def test_data_that_nobody_takes_does_not_pile_up() -> None:
    queue = SensorQueue("camera")
    for frame in range(100):
        queue.put(data(frame))
    assert queue.overflowed == 100 - MOST_WAITING
    assert queue.take(99, timeout_s=1).frame == 99


def test_closed_queue_ignores_what_still_comes() -> None:
    queue = SensorQueue("camera")
    queue.put(data(7))
    queue.close()
    queue.close()
    queue.put(data(8))
    for frame in (7, 8):
        with pytest.raises(SceneFailed):
            queue.take(frame, timeout_s=0.01)


def test_events_are_counted_once_whenever_they_come() -> None:
    events = EventCount()
    assert events.drain() == 0
    events.put(data(3))
    events.put(data(2))
    assert (events.drain(), events.drain()) == (2, 0)


# The frame's handedness.


def at(x: float, y: float, yaw_deg: float) -> Any:
    place, turned = carla_stand_in.Location(x, y), carla_stand_in.Rotation(yaw=yaw_deg)
    return carla_stand_in.Transform(place, turned)


def test_what_is_right_in_carla_is_negative_y_here() -> None:
    state = ego_state(
        at(10.0, 4.0, 30.0),
        carla_stand_in.Vector3D(3.0, 4.0, 0.0),
        carla_stand_in.Vector3D(0.0, 0.0, 90.0),  # degrees a second, to the right
    )
    assert (state.x_m, state.y_m, state.speed_mps) == (10.0, -4.0, 5.0)
    assert state.heading_rad == pytest.approx(-math.radians(30.0))
    assert state.yaw_rate_radps == pytest.approx(-math.pi / 2)


@pytest.mark.parametrize("yaw_deg", [0.0, 90.0, -135.0])
def test_places_are_told_ahead_and_left_of_the_car(yaw_deg: float) -> None:
    here = at(5.0, -2.0, yaw_deg)
    forward = here.get_forward_vector()
    ahead = carla_stand_in.Location(5.0 + 3 * forward.x, -2.0 + 3 * forward.y)
    right = carla_stand_in.Location(5.0 - 3 * forward.y, -2.0 + 3 * forward.x)  # left-handed
    np.testing.assert_allclose(in_car_frame([ahead, right], here), [[3, 0], [0, -3]], atol=1e-9)


def test_steering_left_is_negative_in_carla_and_braking_is_a_pedal_of_its_own() -> None:
    assert vehicle_control(Control(steer=0.3, throttle=0.5)) == {
        "steer": -0.3,
        "throttle": 0.5,
        "brake": 0.0,
    }
    assert vehicle_control(Control(steer=0.0, throttle=-0.4))["brake"] == 0.4


# The world, on the stand-in.


@pytest.fixture(scope="module")
def carla_world() -> Iterator[type]:
    """CarlaWorld over the stand-in, whether or not the real package is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "carla", carla_stand_in)
        for name in ("world", "ego", "road"):
            patch.delitem(sys.modules, f"bridge.carla.{name}", raising=False)
        yield importlib.import_module("bridge.carla.world").CarlaWorld
        for name in ("world", "ego", "road"):
            sys.modules.pop(f"bridge.carla.{name}", None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setattr(carla_stand_in.Client, "server", server)
    yield server
    for thread in server.threads:
        thread.join()


@pytest.fixture
def world(carla_world: type, server: Server) -> Iterator[Any]:
    with carla_world(size_px=16, timeout_s=2.0) as world:
        yield world


def test_carla_world_is_a_road_world_at_four_frames_a_second(world: Any) -> None:
    assert isinstance(world, RoadWorld) and world.fps == 4.0
    seen = world.reset(SEED)
    assert seen.sim_time_us == 0 and seen.frame.shape == (16, 16, 3)
    assert world.step(STRAIGHT).sim_time_us == 250_000


def test_frame_is_that_of_the_last_tick_in_rgb(world: Any, server: Server) -> None:
    world.reset(SEED)
    for _ in range(3):
        frame = world.step(STRAIGHT).frame
        assert frame[0, 0].tolist() == [30, 20, server.frame % 256]


def test_late_and_crossing_images_still_match_their_frames(world: Any, server: Server) -> None:
    delay = iter([0.03, 0.0, 0.02, 0.01, 0.0] * 20)

    def send(sensor: Sensor, image: Image) -> None:
        time.sleep(next(delay))
        sensor.send(image)

    server.send = send
    world.reset(SEED)
    for _ in range(4):
        assert world.step(STRAIGHT).frame[0, 0, 2] == server.frame % 256


def test_lost_image_fails_the_scene_and_the_next_reset_works(
    carla_world: type, server: Server
) -> None:
    with carla_world(size_px=16, timeout_s=0.2) as world:
        world.reset(SEED)
        good = server.send
        server.send = lambda sensor, image: None
        with pytest.raises(SceneFailed, match="camera sent nothing for frame"):
            world.step(STRAIGHT)
        server.send = good
        assert world.reset(SEED).frame.shape == (16, 16, 3)


def test_a_frame_is_five_ticks_of_a_twentieth_of_a_second(world: Any, server: Server) -> None:
    assert server.settings.fixed_delta_seconds == 0.05
    assert server.settings.max_substeps * server.settings.max_substep_delta_time >= 0.05
    world.reset(SEED)
    before = server.frame
    world.step(STRAIGHT)
    assert server.frame - before == 5


def test_seed_gives_spawn_point_and_speed(world: Any) -> None:
    one, other = world.reset(SEED), world.reset(SEED)
    assert one.ego == other.ego
    assert one.ego.speed_mps == pytest.approx(scenario_of(SEED).start_speed_mps)
    assert len({world.reset(seed).ego.x_m // 100 for seed in range(12)}) > 2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_steering_left_turns_left(world: Any, sign: float) -> None:
    first = world.reset(SEED)
    for _ in range(3):
        seen = world.step(Control(steer=0.02 * sign, throttle=0.3))
    assert sign * seen.ego.yaw_rate_radps > 0.0
    assert sign * (seen.ego.heading_rad - first.ego.heading_rad) > 0.0
    assert sign * (seen.ego.y_m - first.ego.y_m) > 0.0


def test_an_action_becomes_a_control_that_does_it(world: Any) -> None:
    seen = world.reset(SEED)
    action = Action(speed_mps=seen.ego.speed_mps + 0.5, yaw_rate_radps=0.15)
    seen = world.step(control_for(world.car, action, seen.ego, 0.25))
    # The stand-in is the kinematic car that CAR describes, in five steps a frame.
    assert seen.ego.speed_mps == pytest.approx(action.speed_mps, rel=0.01)
    assert seen.ego.yaw_rate_radps == pytest.approx(action.yaw_rate_radps, rel=0.05)


def test_road_is_the_lane_ahead_with_its_neighbours(world: Any, server: Server) -> None:
    world.reset(SEED)
    road = world.road()
    np.testing.assert_allclose(road.path_m[:3], [[0, 0], [2, 0], [4, 0]], atol=1e-6)
    assert (road.lane_width_m, road.lanes_left, road.lanes_right) == (3.5, 0, 1)
    assert road.actors.shape == (0, 3)
    ego = next(a for a in server.actors if isinstance(a, carla_stand_in.Vehicle))
    here = ego.transform.location
    blueprint = carla_stand_in.ActorBlueprint("vehicle.other")
    other = carla_stand_in.Vehicle(ego.world, blueprint, at(here.x + 20.0, here.y + 3.5, 0.0))
    other.velocity = carla_stand_in.Vector3D(6.0, 0.0, 0.0)
    server.actors.append(other)
    np.testing.assert_allclose(world.road().actors, [[20.0, -3.5, 6.0]], atol=1e-6)


def test_collision_ends_the_drive_even_if_told_late(world: Any, server: Server) -> None:
    world.reset(SEED)
    assert not world.step(STRAIGHT).done
    (sensor,) = server.sensors("sensor.other.collision")
    sensor.send(carla_stand_in.SensorData(server.frame - 3))
    seen = world.step(STRAIGHT)
    assert (seen.done, seen.end) == (True, "crash")


def test_leaving_the_road_ends_the_drive(world: Any, server: Server) -> None:
    world.reset(SEED)
    ego = next(a for a in server.actors if isinstance(a, carla_stand_in.Vehicle))
    ego.transform.location.y = 3.5 * 2 + 5.0
    assert world.step(STRAIGHT).end == "off_road"


def test_close_gives_the_server_back_as_it_was(carla_world: type, server: Server) -> None:
    server.settings.fixed_delta_seconds = 0.1
    with carla_world(size_px=16) as world:
        world.reset(SEED)
        assert server.settings.synchronous_mode and len(server.actors) == 3
    assert server.actors == []
    assert (server.settings.synchronous_mode, server.settings.fixed_delta_seconds) == (False, 0.1)
    # Sensors are stopped before they go, and the car goes last; then come the settings.
    assert server.log[-6:] == [
        "stop sensor.other.collision",
        "destroy sensor.other.collision",
        "stop sensor.camera.rgb",
        "destroy sensor.camera.rgb",
        "destroy vehicle.tesla.model3",
        "settings sync=False",
    ]
    world.close()
    with pytest.raises(SessionClosed):
        world.step(STRAIGHT)


def test_every_reset_removes_the_last_scene(world: Any, server: Server) -> None:
    for _ in range(3):
        world.reset(SEED)
    assert len(server.actors) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("when", ["reset", "step"])
def test_interrupt_and_error_leave_the_server_as_it_was(
    carla_world: type, server: Server, error: type[BaseException], when: str
) -> None:
    def stop() -> None:
        raise error("time-out of 2000ms while waiting for the simulator")

    expected = KeyboardInterrupt if error is KeyboardInterrupt else Unavailable
    with pytest.raises(expected), carla_world(size_px=16) as world:
        if when == "step":
            world.reset(SEED)
        server.on_tick = stop
        _ = world.reset(SEED) if when == "reset" else world.step(STRAIGHT)
    assert server.actors == [] and not server.settings.synchronous_mode


def test_scene_that_cannot_be_spawned_leaves_nothing(world: Any, server: Server) -> None:
    server.refuses.add("sensor.other.collision")
    with pytest.raises(SceneFailed, match=r"sensor\.other\.collision"):
        world.reset(SEED)
    assert server.actors == []


def test_server_that_another_client_ticks_is_refused_and_left_alone(
    carla_world: type, server: Server
) -> None:
    server.settings.synchronous_mode = True
    with pytest.raises(Unavailable, match="another client ticks it"):
        carla_world(size_px=16)
    assert server.settings.synchronous_mode and server.log == []


def test_server_of_another_version_is_refused(carla_world: type, server: Server) -> None:
    server.version = "0.9.15"
    with pytest.raises(Unavailable, match=r"0\.9\.15.*0\.9\.16: pip install carla==0\.9\.15"):
        carla_world(size_px=16)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.9.16", ""),
        ("0.9.16-dirty", "is 0.9.16-dirty, the client package 0.9.16: the same release"),
        ("0.9.16-279-gf45dd6943", "the same release, but not the same build"),
        ("0.9.16.1", "the same release"),
        ("v0.9.16", "the same release"),
        ("784d9b9f", "is 784d9b9f, the client package 0.9.16: whether they fit cannot be told"),
        ("ue5-dev", "cannot be told"),
        ("", "cannot be told"),
    ],
)
def test_server_built_from_source_is_taken_with_a_warning(
    carla_world: type,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    version: str,
    said: str,
) -> None:
    server.version = version
    carla_world(size_px=16).close()
    assert len(caplog.messages) == bool(said)
    assert said in "".join(caplog.messages)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("0.9.15-dirty", "0.9.15"),
        ("0.9.15.2", "0.9.15"),
        ("0.9.15-279-gf45dd6943", "0.9.15"),
        ("0.10.0", "0.10.0"),
        ("1.9.16", "1.9.16"),
    ],
)
def test_server_of_another_release_is_refused_with_a_package_that_exists(
    carla_world: type, server: Server, version: str, number: str
) -> None:
    server.version = version
    with pytest.raises(Unavailable, match=rf"pip install carla=={number} .*, or the package in"):
        carla_world(size_px=16)


def test_a_camera_that_sends_nothing_is_said(carla_world: type, server: Server) -> None:
    def empty(sensor: Any, image: Any) -> None:
        image.raw_data = b""
        sensor.send(image)

    server.send = empty
    with (
        carla_world(size_px=16, timeout_s=1) as world,
        pytest.raises(Unavailable, match=r"camera gave 0 bytes for 16x16 pixels"),
    ):
        world.reset(0)


def test_no_server_says_where_it_was_looked_for(carla_world: type) -> None:
    with pytest.raises(Unavailable, match=r"CARLA at far:2001: time-out"):
        carla_world(size_px=16, host="far", port=2001)


def test_step_before_reset_is_refused(world: Any) -> None:
    for call in (lambda: world.step(STRAIGHT), world.road):
        with pytest.raises(InvalidInput, match="after reset"):
            call()


def test_town_is_loaded_first(carla_world: type, server: Server) -> None:
    carla_world(size_px=16, town="Town04").close()
    assert server.log[0] == "load Town04"


def test_drives_of_carla_are_recorded_like_any_others(
    carla_world: type, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["record", "--world", "carla", "--out", str(tmp_path), "--split", "train"]
    assert main([*arguments, "--drives=1", "--frames=24", "--size=32"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 24
    assert server.actors == [] and not server.settings.synchronous_mode


def test_carla_is_driven_beside_the_neural_simulator(
    carla_world: type, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d.mp4"
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as toy:
        drive = ["drive", "--world", "carla", "--server", toy.endpoint, "--out", str(out)]
        assert main([*drive, "--frames=4", "--lead-in=2"]) == 0
    (one,) = json.loads(capsys.readouterr().out.splitlines()[-1])["drives"]
    assert (one["world"], one["town"], one["frames"]) == ("carla", "Carla/Maps/StandIn", 4)
    assert one["on_road_s"] == 1.0
    assert server.actors == [] and not server.settings.synchronous_mode


@pytest.mark.parametrize(
    ("address", "said"), [("nowhere", "HOST:PORT"), ("h:1", "pip install carla==")]
)
def test_wrong_address_and_missing_package_are_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "carla", None)
    monkeypatch.delitem(sys.modules, "bridge.carla.world", raising=False)
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        drive = ["drive", "--world", "carla", "--out", str(tmp_path / "d.mp4")]
        assert main([*drive, "--server", server.endpoint, "--carla", address]) == 2
    assert said in capsys.readouterr().err


# The real package.


def parameters(lines: list[str]) -> list[str]:
    """Names of the last signature of a listed member."""
    function = ast.parse(lines[-1]).body[0]
    assert isinstance(function, ast.FunctionDef)
    return [a.arg for a in function.args.args]


@pytest.mark.parametrize("name", LISTED)
def test_stand_in_has_the_packages_signatures(name: str) -> None:
    ours = getattr(carla_stand_in, name)
    for member, lines in LISTED[name].items():
        if member == "class" or "property" in lines[0] or not lines[-1].startswith("def "):
            continue
        if member == "__init__" and name == "Location":
            continue  # its own is Vector3D's
        function = inspect.getattr_static(ours, member)
        given = list(inspect.signature(function).parameters)
        listed = [p for p in parameters(lines) if not p.startswith("_")]
        assert given == listed[: len(given)] and len(given) == len(listed), (name, member)


def type_check(tmp_path: Path, *files: Path) -> str:
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "carla.pyi").write_text(carla_package.as_stub(LISTED))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--follow-imports=silent", *map(str, files)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_we_call_is_there_with_these_signatures(tmp_path: Path) -> None:
    assert type_check(tmp_path, *(ROOT / "bridge" / "carla").glob("*.py")) == ""


@pytest.mark.slow
def test_wrong_names_and_arguments_are_caught(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import carla\n\n\n"
        "def run(world: carla.World, car: carla.Vehicle) -> None:\n"
        "    world.tick(timeout=1.0)\n"
        "    world.spawn()\n"
        "    car.set_autopilot(True)\n"
        "    car.apply_control(carla.VehicleControl(steering=1.0))\n"
    )
    said = type_check(tmp_path, wrong)
    for part in ('"timeout" for "tick"', '"spawn"', '"set_autopilot"', '"steering"'):
        assert part in said, said


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real package, unpacked."""
    try:
        return carla_package.fetch(tmp_path_factory.mktemp("carla"))
    except NotFetched as error:
        pytest.skip(f"CARLA's client package cannot be had here: {error}")


def test_the_list_is_what_the_package_says(package: Path) -> None:
    assert carla_package.names_of(package) == LISTED


def with_package(package: Path, code: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(package)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compiled_package_has_every_listed_name(package: Path) -> None:
    code = f"""
import carla, json
listed = json.load(open({str(carla_package.NAMES)!r}))[{carla_package.VERSION!r}]
print([f"{{c}}.{{m}}" for c in listed for m in listed[c]
       if m != "class" and not hasattr(getattr(carla, c), m)])
"""
    assert with_package(package, code).strip() == "[]"


def test_values_are_made_of_real_classes(package: Path) -> None:
    code = """
import carla
from bridge.carla.convert import ego_state, in_car_frame, vehicle_control
from bridge.worlds import Control
control = carla.VehicleControl(**vehicle_control(Control(steer=0.25, throttle=-0.5)))
assert (control.steer, control.throttle, control.brake) == (-0.25, 0.0, 0.5), control
here = carla.Transform(carla.Location(x=1.0, y=2.0, z=0.0), carla.Rotation(yaw=90.0))
state = ego_state(here, carla.Vector3D(x=0.0, y=3.0, z=0.0), carla.Vector3D(z=10.0))
assert (state.x_m, state.y_m, state.speed_mps) == (1.0, -2.0, 3.0), state
ahead = here.location + here.get_forward_vector() * 4.0
right = here.location + here.get_right_vector() * 4.0
places = in_car_frame([ahead, right], here).round(4).tolist()
assert places == [[4.0, 0.0], [0.0, -4.0]], places
settings = carla.WorldSettings()
settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
settings.max_substeps, settings.max_substep_delta_time = 5, 0.01
assert (settings.max_substeps, settings.substepping) == (5, True)
"""
    with_package(package, code)


def test_real_client_without_a_server_times_out_with_a_clear_error(package: Path) -> None:
    code = """
from bridge.carla.world import CarlaWorld
from sim_stream.errors import Unavailable
try:
    CarlaWorld(size_px=64, port=9, timeout_s=0.5)
except Unavailable as error:
    print(error)
"""
    assert "CARLA at 127.0.0.1:9: time-out of 500ms" in with_package(package, code)
