"""Recording under real faults: it may end early, the stream never does, and what is there reads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sim_stream.errors import InvalidInput, RemoteError
from sim_stream.last_resort import InternalErrors
from sim_stream.model_options import ModelOptions, as_recorded
from sim_stream.recording.archive import KEY_FILE, RecordedSessions
from sim_stream.recording.formats import FORMATS, read_frames
from sim_stream.recording.lines import End
from sim_stream.recording.load import load
from sim_stream.recording.pixels import PixelWriter
from sim_stream.recording.recorder import LINE_BYTES, TOO_SLOW, Recorder
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.dispatch import Dispatcher
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import has_ended, recorded, wait_until
from tests.wire.conftest import ROOT, TIMEOUT_S, ServerProcess
from tests.wire.test_last_resort import Plant
from tests.wire.toy import SIZE, ToyModel, drive, prompt_frames

TMPFS = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def can_mount_tmpfs() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = [*TMPFS, "mount -t tmpfs none /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def drive_server(server, steps):
    with (
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(prompt_frames()) as session,
    ):
        return session.sid, [session.step(action) for action in drive(steps)]


@pytest.mark.parametrize("form", ["ffv1", "mp4"])
def test_recording_cut_off_at_any_byte_replays_up_to_the_cut(record, replayed, form):
    path, _ = record(form=form)
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in (*range(0, len(whole), 997), *(end - 1 for end in ends), *ends[:-1]):
        path.write_bytes(whole[:cut])
        shown = sum(end <= cut for end in ends[1:])
        if not shown:
            with pytest.raises(InvalidInput, match="recording"):
                load(path)
            continue
        report = replayed(path)
        assert report.same and report.frames == min(shown, 7)
        assert report.end == "cut off in the middle" and not report.complete


def test_bytes_that_make_no_sense_end_what_is_read(record, replayed):
    path, _ = record()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = b'{"kind":"shown","sha256":\xff\xfe}\n'
    path.write_bytes(b"".join(lines))
    report = replayed(path)
    assert report.same and report.frames == 3 and not report.complete


@pytest.mark.parametrize("form", ["ffv1", "mp4"])
def test_video_cut_off_at_any_byte_gives_the_frames_before(record, replayed, form):
    path, _ = record(form=form)
    video = load(path).video
    whole, frames = video.read_bytes(), list(read_frames(video))
    found = []
    for cut in range(0, len(whole) + 1, 509):
        video.write_bytes(whole[:cut])
        readable = list(read_frames(video))
        np.testing.assert_array_equal(readable, frames[: len(readable)] or readable)
        found.append(len(readable))
    assert found == sorted(found) and found[0] == 0 and found[-1] >= 6
    assert len(set(found)) >= 6  # frame by frame
    assert replayed(path).same


@pytest.mark.parametrize("form", FORMATS)
def test_server_killed_in_the_middle_leaves_a_recording_up_to_there(tmp_path, replayed, form):
    server = ServerProcess("--record", str(tmp_path), "--record-format", form)
    try:
        with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
            session = client.open(prompt_frames())
            for action in drive(8):
                session.step(action)
            wait_until(lambda: len(load_or_none(tmp_path)) >= 5)
            server.stop(signal.SIGKILL)
            session.abandon()
    finally:
        server.process.kill()
        server.process.communicate()
    hidden = {path.name for path in tmp_path.glob(".*")}
    assert hidden <= {KEY_FILE}  # nothing else is left behind
    report = replayed(recorded(tmp_path))
    assert report.same and report.frames >= 5 and not report.complete
    # The last frame may still have been in the dead process's buffer.
    in_buffer = {"ffv1": 1, "mp4": 0, "mcap": 0}[form]
    if form != "mp4":
        assert report.intact_pixels is not None
        assert report.intact_pixels >= report.frames - in_buffer


def load_or_none(folder):
    try:
        return load(recorded(folder)).shown
    except (InvalidInput, ValueError):
        return []


def full_disk_is_told_and_the_session_goes_on(server, folder, replayed):
    """Drives until long after the disk is full; ends the server; reads what is there."""
    sid, frames = drive_server(server, 60)
    assert [frame.step for frame in frames] == [*range(1, 61)]
    drive_server(server, 2)  # on a full disk nothing of that fits; it runs all the same
    wait_until(lambda: has_ended(folder, sid))
    report = replayed(recorded(folder, sid))
    assert report.same and not report.complete and 3 < report.frames < 60
    return report.end


@pytest.mark.parametrize("form", FORMATS)
def test_file_that_cannot_grow_ends_the_recording_not_the_session(tmp_path, replayed, form):
    limit = ("--file-bytes", "40000")
    server = ServerProcess("--record", str(tmp_path), "--record-format", form, *limit)
    try:
        reason = full_disk_is_told_and_the_session_goes_on(server, tmp_path, replayed)
        assert reason == "File too large"
        status, log = server.stop(signal.SIGTERM)
    finally:
        server.process.kill()
    assert status == 0
    assert "ends here, the session goes on: File too large" in log


@pytest.mark.skipif(not can_mount_tmpfs(), reason="needs unshare and tmpfs in a user namespace")
@pytest.mark.parametrize("form", FORMATS)
def test_full_disk_ends_the_recording_not_the_session(tmp_path, replayed, form):
    mount = f'mount -t tmpfs -o size=100k none {tmp_path} && exec "$@"'
    record = ("--record", str(tmp_path), "--record-format", form)
    server = ServerProcess(*record, prefix=[*TMPFS, mount, "sh"])
    try:
        inside = tmp_path.relative_to("/")
        folder = Path(f"/proc/{server.process.pid}/root") / inside
        reason = full_disk_is_told_and_the_session_goes_on(server, folder, replayed)
        assert reason == "No space left on device"
        status, log = server.stop(signal.SIGTERM)
    finally:
        server.process.kill()
    assert status == 0
    assert "ends here, the session goes on: No space left on device" in log


def test_disk_that_is_too_slow_ends_the_recording_and_bounds_its_memory(
    recording_client, tmp_path, monkeypatch, replayed
):
    go, write = threading.Event(), PixelWriter.write

    def slow(writer, image):
        if writer.frames == 3:
            assert go.wait(TIMEOUT_S)
        return write(writer, image)

    monkeypatch.setattr(PixelWriter, "write", slow)
    room = 6 * (SIZE * SIZE * 3 + LINE_BYTES)
    client = recording_client(backlog_bytes=room)
    with client.open(prompt_frames()) as session:
        for action in drive(40):
            session.step(action)
    go.set()
    recording_client.finish()
    monkeypatch.undo()
    report = replayed(recorded(tmp_path))
    assert (report.same, report.complete, report.end) == (True, False, TOO_SLOW)
    assert 3 <= report.frames <= 3 + 1 + 6


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"), "UnicodeEncodeError"),
    ],
)
def test_recorder_knows_which_recordings_ended_early_and_goes_on_with_others(
    tmp_path, monkeypatch, error, reason
):
    write = PixelWriter.write

    def fails(writer, image):
        if writer.frames == 2:
            raise error
        return write(writer, image)

    with (
        StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server,
        Recorder(tmp_path, by="client") as recorder,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S, observer=recorder) as client,
    ):
        monkeypatch.setattr(PixelWriter, "write", fails)
        with client.open(prompt_frames()) as cut:
            for _ in range(4):
                cut.step()
        wait_until(lambda: has_ended(tmp_path, cut.sid))
        monkeypatch.undo()
        with client.open(prompt_frames()) as whole:
            whole.step()
    assert recorder.lost.keys() == {cut.sid} and reason in recorder.lost[cut.sid]
    assert load(recorded(tmp_path, whole.sid)).end == End(reason="closed", complete=True)


def test_weights_under_a_name_that_is_no_utf8_are_told_of_all_the_same(tmp_path):
    options = as_recorded(ModelOptions(weights=tmp_path / "w\udcff"))
    assert options["weights"] == f"{tmp_path}/w\\xff"


FULL_TO_THE_LAST_BYTE = """
import sys
from pathlib import Path
from sim_stream.recording.lines import End, Refused
from sim_stream.recording.video_files import SidecarWriter
from sim_stream.wire.messages import Fork

def line(size):
    empty = len(b'{"kind":"refused","request":{"t":"fork","v":2,"rid":0,"arrays":[],"sid":"s",'
            b'"seed":null,"idempotency_key":""},'
                b'"code":"LIMIT","message":""}') + 1
    return Refused(request=Fork(sid="s"), code="LIMIT", message="x" * (size - empty))

folder, size = Path(sys.argv[1]), int(sys.argv[2])
writer = SidecarWriter(folder / "x.jsonl")
writer.write(line(size))
assert writer.path.stat().st_size == size
try:
    with open(folder / "other", "wb", buffering=0) as other:
        while True:
            other.write(bytes(4096))
except OSError:
    pass
try:
    writer.write(line(5000))
except OSError:
    writer.end(End(reason="full", complete=False))
print((folder / "x.jsonl").read_bytes()[size:].decode())
"""


@pytest.mark.skipif(not can_mount_tmpfs(), reason="needs unshare and tmpfs in a user namespace")
# A page is full, so the last line needs another; a page has room for half the line that fails.
@pytest.mark.parametrize("size", [4096, 3000])
def test_last_line_has_its_place_on_a_disk_full_to_the_last_byte(tmp_path, size):
    mount = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$@"'
    code = [sys.executable, "-c", FULL_TO_THE_LAST_BYTE, str(tmp_path), str(size)]
    done = subprocess.run(
        [*TMPFS, mount, "sh", *code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == '{"kind":"end","reason":"full","complete":false}', done.stderr


@pytest.mark.parametrize(
    "place", [(Recorder, "_record"), (Recorder, "_begin"), (Recorder, "_fail")]
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_writer_that_fails_ends_one_recording_and_goes_on(place, times, tmp_path, monkeypatch):
    errors = InternalErrors()
    plant = Plant(monkeypatch, *place)
    if place[1] == "_fail":  # the last resort's own work: something must bring it about
        Plant(monkeypatch, Recorder, "_record").left = times
    with (
        Recorder(tmp_path, by="server", errors=errors) as recorder,
        StreamServer(
            ToyModel(),
            bind="tcp://127.0.0.1:0",
            observer=recorder,
            archive=RecordedSessions(tmp_path),
            errors=errors,
        ) as server,
    ):
        plant.left = times
        for _ in range(times):
            drive_server(server, 3)
        plant.left = 0
        sid, _ = drive_server(server, 3)
    assert plant.raised and errors.by_place()["recorder"] >= plant.raised
    end = load(recorded(tmp_path, sid)).end
    assert end is not None and end.complete


def test_a_session_that_the_server_lost_track_of_ends_its_recording_incomplete(
    tmp_path, monkeypatch
):
    with (
        Recorder(tmp_path, by="server") as recorder,
        StreamServer(ToyModel(), bind="tcp://127.0.0.1:0", observer=recorder) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        session = client.open(prompt_frames())
        session.step()
        Plant(monkeypatch, Dispatcher, "on_result").left = 1
        with pytest.raises(RemoteError, match="INTERNAL"):
            session.step()
        wait_until(lambda: has_ended(tmp_path))
    end = load(recorded(tmp_path)).end
    assert end is not None and not end.complete and "lost track" in end.reason
