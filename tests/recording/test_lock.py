"""One server records into a folder; its key for tokens is a file that nobody else has had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim_stream.errors import InvalidInput
from sim_stream.recording import lock
from sim_stream.recording.archive import KEY_FILE, RecordedSessions
from sim_stream.recording.lock import LOCK_FILE, FolderLock
from sim_stream.recording.recorder import Recorder
from tests.faults.processes import toy_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/locks")


def test_a_second_server_is_refused_and_told_who_has_the_folder(tmp_path):
    with toy_server("--record", tmp_path) as server:
        says = rf"record: got {tmp_path}, into which the server with pid {server.pid} records"
        with pytest.raises(InvalidInput, match=says):
            Recorder(tmp_path, by="server")
        server.kill()
        Recorder(tmp_path, by="server").close()  # the kernel gave it back


def test_the_command_ends_with_one_line_before_it_loads_a_model(tmp_path):
    with Recorder(tmp_path, by="server"):
        command = [sys.executable, "-m", "sim_stream", "serve", "--record", str(tmp_path)]
        command += ["--bind", "tcp://127.0.0.1:0", "--weights", str(tmp_path / "nowhere")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"pid {os.getpid()}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_folder_is_free_again_when_the_recorder_is_closed(tmp_path):
    for _ in range(2):
        with Recorder(tmp_path, by="server"), pytest.raises(InvalidInput, match="into which"):
            Recorder(tmp_path / "." / "", by="server")


def test_a_folder_is_the_same_by_any_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    with Recorder(tmp_path / "a", by="server"), pytest.raises(InvalidInput, match="into which"):
        Recorder(tmp_path / "b", by="server")


def test_clients_recorders_need_no_lock(tmp_path):
    with Recorder(tmp_path, by="server"), Recorder(tmp_path, by="client"):
        pass


@pytest.mark.parametrize("kind", ["folder", "link", "FIFO"])
def test_a_lock_that_is_no_file_is_named(tmp_path, kind):
    path = tmp_path / LOCK_FILE
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(InvalidInput, match=rf"record: got .*{LOCK_FILE}"):
        Recorder(tmp_path, by="server")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(file: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    import fcntl

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InvalidInput, match="cannot be locked: Operation not supported"):
        FolderLock(tmp_path)


def test_without_proc_locks_the_holder_is_another_server(tmp_path, monkeypatch):
    held = FolderLock(tmp_path)
    monkeypatch.setattr(lock, "Path", lambda name: tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="into which another server records"):
        FolderLock(tmp_path)
    held.release()
    held.release()


# The key for tokens.


def spoil(path: Path, how: str) -> None:
    key = path.read_bytes()
    path.unlink()
    match how:
        case "empty":
            path.touch(0o600)
        case "short":
            path.touch(0o600)
            path.write_bytes(key[:31])
        case "long":
            path.touch(0o600)
            path.write_bytes(key + b"x")
        case "readable" | "writable":
            path.write_bytes(key)
            path.chmod(0o644 if how == "readable" else 0o666)
        case "link":
            (path.parent / "elsewhere").write_bytes(key)
            (path.parent / "elsewhere").chmod(0o600)
            path.symlink_to(path.parent / "elsewhere")
        case "dangling":
            path.symlink_to(path.parent / "nowhere")
        case "FIFO":
            os.mkfifo(path, 0o600)
        case "folder":
            path.mkdir(0o700)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "of 0 bytes; allowed: the 32 bytes"),
        ("short", "of 31 bytes; allowed: the 32 bytes"),
        ("long", "of more than 32 bytes"),
        ("readable", "of mode 0644; allowed: 0600: .*chmod 600"),
        ("writable", "of mode 0666; allowed: 0600: .*chmod 600"),
        ("link", r"\(a link\); allowed: a regular file"),
        ("dangling", r"\(a link\); allowed: a regular file"),
        ("FIFO", r"\(a FIFO\); allowed: a regular file"),
        ("folder", r"\(a folder\); allowed: a regular file"),
    ],
)
def test_a_key_that_others_may_know_or_have_made_is_refused_by_name(tmp_path, how, says):
    RecordedSessions(tmp_path)
    spoil(tmp_path / KEY_FILE, how)
    with pytest.raises(InvalidInput, match=rf"record: got \S*{KEY_FILE}.*{says}"):
        RecordedSessions(tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_a_key_is_made_with_mode_0600_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        RecordedSessions(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
