"""Recordings of worlds that are no token models: a map with every step, clips of five frames.

Nothing but ``toy_worlds`` knows what they are; every array comes back bit by bit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.load import Recording, load
from sim_stream.recording.recorder import LINE_BYTES, TOO_SLOW, Backlog, Recorder
from sim_stream.recording.replay import Report, replay
from sim_stream.recording.session import SessionRecording
from sim_stream.wire.client.blocking_client import RemoteSession, StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import LOCAL, has_ended, recorded, recordings, wait_until
from tests.wire.conftest import TIMEOUT_S, ServerProcess
from tests.wire.toy_worlds import ToyWorld, clip_world, map_world, semantic

START = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
FORMS = ("ffv1", "mcap")


@dataclass(frozen=True)
class Drive:
    """A world, a session's start and the inputs of its steps."""

    name: str
    world: Callable[[], ToyWorld]
    start: dict[str, Any]
    frames: int  # with the start's
    steps: Sequence[dict[str, Any]]

    def images(self, session: RemoteSession, first: int = 0, last: int = 6) -> list[np.ndarray]:
        return [image for inputs in self.steps[first:last] for image in session.step(inputs).images]


LED_TO = [{"semantic": semantic(20), "speed_mps": 1.5}, {"semantic": semantic(21)}]
MAP_STEPS = [{"semantic": semantic(key), "speed_mps": key / 3} for key in range(6)]
DRIVES = (
    Drive("map", map_world, {"frames": START, "prompt_inputs": LED_TO, "seed": 7}, 7, MAP_STEPS),
    Drive(
        "clip",
        clip_world,
        {"inputs": {"weather": "rain"}, "options": {"temperature": 0.5}, "seed": 2**64 - 1},
        30,
        [{}] * 6,
    ),
)
all_drives = pytest.mark.parametrize("drive", DRIVES, ids=lambda drive: drive.name)


@contextmanager
def served(drive: Drive, folder: Path, form: str, bind: str = LOCAL) -> Iterator[StreamServer]:
    """A server that records."""
    with Recorder(folder, by="server", form=form) as recorder:
        archive = RecordedSessions(folder)
        with StreamServer(drive.world(), bind=bind, observer=recorder, archive=archive) as server:
            yield server


@contextmanager
def recording_client(drive: Drive, folder: Path, by: Any, form: str) -> Iterator[StreamClient]:
    """A client of a server, one side of which records."""
    with Recorder(folder, by=by, form=form) as recorder:
        sides = {"server": None, "client": None} | {by: recorder}
        server = StreamServer(drive.world(), bind=LOCAL, observer=sides["server"], max_sessions=5)
        with server, connected(server, observer=sides["client"]) as client:
            yield client


def connected(server: StreamServer | ServerProcess, **options: Any) -> StreamClient:
    return StreamClient(server.endpoint, timeout_s=TIMEOUT_S, **options)


def replayed(drive: Drive, path: Path) -> Report:
    with StreamServer(drive.world(), bind=LOCAL) as server:
        return replay(load(path), server.endpoint)


def uninterrupted(drive: Drive) -> list[np.ndarray]:
    """The frames of that drive on a server that nothing happens to."""
    with (
        StreamServer(drive.world(), bind=LOCAL) as server,
        connected(server) as client,
        client.open(**drive.start) as session,
    ):
        return drive.images(session)


def require_inputs(drive: Drive, recording: Recording, steps: int = 6) -> None:
    """All that went in is there, bit by bit."""
    (run,) = recording.runs
    values, start = run.start_values(), {"inputs": {}, "prompt_inputs": []} | drive.start
    np.testing.assert_array_equal(values.frames, start.get("frames", values.frames[:0]))
    assert_equal([values.inputs], [start["inputs"]])
    assert_equal(values.prompt_inputs, start["prompt_inputs"])
    assert values.options == recording.header.info.spec.defaults | start.get("options", {})
    assert_equal([step.inputs for step in run.steps()], drive.steps[:steps])


def assert_equal(found: Sequence[Any], given: Sequence[Any]) -> None:
    assert len(found) == len(given)
    for ours, theirs in zip(found, given, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, strict=isinstance(value, np.ndarray))


@all_drives
@pytest.mark.parametrize("by", ["server", "client"])
@pytest.mark.parametrize("form", [*FORMS, "mp4"])
def test_a_world_is_recorded_with_all_that_went_in_and_replays_equal(drive, by, form, tmp_path):
    with ExitStack() as stack:
        client = stack.enter_context(recording_client(drive, tmp_path, by, form))
        with client.open(**drive.start) as session:
            images = drive.images(session)
    recording = load(recorded(tmp_path))
    assert len(recording.shown) == 7
    require_inputs(drive, recording)
    report = replayed(drive, recording.path)
    assert report.same and report.complete and report.frames == drive.frames
    assert report.intact_pixels == (None if form == "mp4" else drive.frames)
    np.testing.assert_array_equal(images, uninterrupted(drive))
    assert [line.index for line in recording.shown][-2:] == [
        drive.frames - 2 * len(recording.shown[1].frames),
        drive.frames - len(recording.shown[1].frames),
    ]


@all_drives
@pytest.mark.parametrize("form", FORMS)
def test_a_session_of_a_world_goes_on_after_restarts_in_either_format(drive, form, tmp_path):
    others = {"ffv1": "mcap", "mcap": "ffv1"}
    images: list[np.ndarray] = []
    with ExitStack() as stack:
        client, session, endpoint = None, None, LOCAL
        for index, form_now in enumerate((form, others[form], form)):
            with served(drive, tmp_path, form_now, bind=endpoint) as server:
                endpoint = server.endpoint
                if client is None:
                    client = stack.enter_context(connected(server))
                    session = client.open(**drive.start)
                images += drive.images(session, 2 * index, 2 * index + 2)
                if index == 2:
                    session.close()
    np.testing.assert_array_equal(images, uninterrupted(drive))
    require_inputs(drive, load(newest(tmp_path)))
    report = replayed(drive, newest(tmp_path))
    assert report.same and report.complete and report.frames == drive.frames


@all_drives
@pytest.mark.parametrize("form", FORMS)
def test_a_server_killed_in_the_middle_loses_no_array_of_a_line(drive, form, tmp_path):
    options = ("--record", str(tmp_path), "--record-format", form, "--world", drive.name)
    server, images = ServerProcess(*options), []
    try:
        with connected(server, resume_s=30.0) as client:
            session = client.open(**drive.start)
            for index in range(6):
                if index in (2, 4):  # at once after a reply: its line may not be written yet
                    server.stop(signal.SIGKILL)
                    server = ServerProcess(*options, "--bind", server.endpoint)
                images += drive.images(session, index, index + 1)
            wait_until(lambda: len(load(newest(tmp_path)).shown) == 7)
            server.stop(signal.SIGKILL)
            session.abandon()
    finally:
        server.process.kill()
        server.process.communicate()
    np.testing.assert_array_equal(images, uninterrupted(drive))
    recording = load(newest(tmp_path))
    require_inputs(drive, recording)
    report = replayed(drive, recording.path)
    assert report.same and not report.complete and report.frames == drive.frames


def newest(folder: Path) -> Path:
    """The last part of the one session there."""
    return max(recordings(folder), key=lambda path: (len(path.stem), path.stem))


@all_drives
@pytest.mark.parametrize("form", FORMS)
def test_a_world_s_recording_cut_off_at_any_byte_replays_up_to_the_cut(drive, form, tmp_path):
    with (
        served(drive, tmp_path, form) as server,
        connected(server) as client,
        client.open(**drive.start) as session,
    ):
        drive.images(session, last=3)
    path = recorded(tmp_path)
    whole, seen = path.read_bytes(), set()
    for cut in range(len(whole) - 1, 0, -617):
        path.write_bytes(whole[:cut])
        try:
            recording = load(path)
        except InvalidInput:
            continue
        steps = len(recording.shown) - 1
        if steps not in seen:
            seen.add(steps)
            require_inputs(drive, recording, steps)
            assert replayed(drive, path).same
    assert seen == {0, 1, 2, 3}


@all_drives
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["server", "client"])
def test_a_fork_with_a_seed_is_forked_again_where_it_was(drive, form, by, tmp_path):
    with ExitStack() as stack:
        client = stack.enter_context(recording_client(drive, tmp_path, by, form))
        parent = client.open(**drive.start)
        drive.images(parent, 0, 2)
        child = parent.fork(seed=11)
        drive.images(child, 2, 4)
        plain = child.fork()
        drive.images(plain, 4, 5)
        again = plain.fork(seed=12)  # at its very end
        last = again.fork(seed=13)
        ours, theirs = drive.images(parent, 2, 3), drive.images(last, 5, 6)
        assert (ours[0] != theirs[0]).any()
        for session in (parent, child, plain, again, last):
            session.close()
    for session, steps, forks in (
        (parent, 3, {}),
        (child, 4, {2: 11}),
        (plain, 5, {2: 11}),
        (again, 5, {2: 11, 5: 12}),
        (last, 6, {2: 11, 5: 13}),
    ):
        path = recorded(tmp_path, session.sid)
        (run,) = load(path).runs
        assert run.forks == forks
        report = replayed(drive, path)
        assert report.same and report.frames == drive.frames - (6 - steps) * len(ours)
        run.forks.clear()
        with StreamServer(drive.world(), bind=LOCAL) as server:
            unforked = replace(load(path), runs=[run])
            assert replay(unforked, server.endpoint).same == (session is parent)


@all_drives
@pytest.mark.parametrize("form", FORMS)
def test_a_fork_with_a_seed_survives_restarts(drive, form, tmp_path):
    with (
        StreamServer(drive.world(), bind=LOCAL) as server,
        connected(server) as client,
        client.open(**drive.start) as parent,
    ):
        drive.images(parent, 0, 2)
        with parent.fork(seed=5) as child:
            expected = drive.images(child, 2, 6)
    with ExitStack() as stack:
        with served(drive, tmp_path, form) as server:
            endpoint = server.endpoint
            client = stack.enter_context(connected(server))
            parent = client.open(**drive.start)
            drive.images(parent, 0, 2)
            child = parent.fork(seed=5)
        found = []
        for first in (2, 4):  # resumed where it was forked, and beyond
            with served(drive, tmp_path, form, bind=endpoint):
                found += drive.images(child, first, first + 2)
                assert child.seed == 5
                if first == 4:
                    child.close()
    np.testing.assert_array_equal(found, expected)


def test_memory_of_the_backlog_counts_arrays_of_requests_and_all_frames(tmp_path, monkeypatch):
    drive = DRIVES[0]
    one = LINE_BYTES + 24 * 32 * 3 + 24 * 32
    monkeypatch.setattr(Backlog, "take", lambda backlog: None)  # nothing is written
    with (
        Recorder(tmp_path, by="server", backlog_bytes=10 * one) as recorder,
        StreamServer(drive.world(), bind=LOCAL, observer=recorder) as server,
        connected(server) as client,
        client.open(**drive.start) as session,
    ):
        drive.images(session)
        start = LINE_BYTES + START.nbytes + 24 * 32 * 3 + 2 * 24 * 32
        expected = start + 6 * one
        wait_until(lambda: recorder._backlog._bytes >= expected)
        assert recorder._backlog._bytes == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_is_full_ends_the_recording_and_not_the_session(form, tmp_path):
    options = ("--record", str(tmp_path), "--record-format", form, "--world", "map")
    server = ServerProcess(*options, "--file-bytes", "40000")
    drive = DRIVES[0]
    noise = [{"semantic": semantic(key)} for key in range(60)]
    try:
        with connected(server) as client, client.open(**drive.start) as session:
            assert [session.step(inputs).step for inputs in noise] == [*range(1, 61)]
        wait_until(lambda: has_ended(tmp_path))
        status, log = server.stop(signal.SIGTERM)
    finally:
        server.process.kill()
    assert status == 0 and "ends here, the session goes on: File too large" in log
    report = replayed(drive, recorded(tmp_path))
    assert report.same and report.end == "File too large" and 3 < report.frames < 60


def test_a_disk_too_slow_for_arrays_ends_the_recording(tmp_path, monkeypatch):
    drive, add = DRIVES[0], SessionRecording.add
    go = threading.Event()

    def slow(recording, exchange):
        assert go.wait(TIMEOUT_S)
        add(recording, exchange)

    monkeypatch.setattr(SessionRecording, "add", slow)
    with (
        Recorder(tmp_path, by="server", backlog_bytes=20_000) as recorder,
        StreamServer(drive.world(), bind=LOCAL, observer=recorder) as server,
        connected(server) as client,
    ):
        with client.open(**drive.start) as session:
            drive.images(session)
        go.set()
        wait_until(lambda: recorder.lost.get(session.sid) == TOO_SLOW)
    assert replayed(drive, recorded(tmp_path)).same
