"""``sim-stream view`` as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from sim_stream import cli
from sim_stream.errors import InvalidInput
from sim_stream.view.options import ViewOptions
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.keys import write_pair
from sim_stream.wire.server.guard import Guard
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import ROOT, TIMEOUT_S
from tests.wire.toy import ToyRuntime

COMMAND = (sys.executable, "-m", "sim_stream", "view", "--port", "0")
START_S = 60.0
LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def server():
    with StreamServer(ToyRuntime(), bind=LOCAL) as server:
        yield server


@pytest.fixture
def view(server):
    """The page of the toy server, in a process of its own; its address as ``url``."""
    process = subprocess.Popen(
        [*COMMAND, "--server", server.endpoint],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    word, process.url, *_ = process.stdout.readline().split()
    assert word == "ready"
    yield process
    process.kill()
    process.communicate()


def test_the_end_of_its_own_server_is_an_error_with_its_last_words():
    view = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert view.stdout.readline().startswith("ready ")
        children = Path(f"/proc/{view.pid}/task/{view.pid}/children").read_text().split()
        (server,) = map(int, children)
        os.kill(server, signal.SIGKILL)
        _, stderr = view.communicate(timeout=START_S)
    finally:
        view.kill()
        view.communicate()
    assert (view.returncode, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("sim-stream view: the server died")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_status_0_and_the_server_lives_on(view, server, number):
    with urllib.request.urlopen(view.url, timeout=TIMEOUT_S) as reply:
        assert b"sim_stream" in reply.read()
    view.send_signal(number)
    assert view.wait(TIMEOUT_S) == 0
    assert view.stderr.read() == ""
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        assert client.status().sessions == 0  # its session was closed


def test_a_server_that_asks_for_keys_is_watched_with_them(tmp_path):
    for name in ("server", "me"):
        write_pair(tmp_path / name)
    guard = Guard.load(tmp_path / "server.secret", tmp_path / "me.pub")
    publish = f"ipc://{tmp_path}/viewers"
    options = ("--key", "me.secret", "--server-key", "server.pub", "--subscribe", publish)
    with StreamServer(ToyRuntime(), bind=LOCAL, publish=publish, guard=guard) as server:
        view = subprocess.Popen(
            [*COMMAND, "--server", server.endpoint, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert view.stdout.readline().startswith("ready ")
        view.send_signal(signal.SIGTERM)
        _, stderr = view.communicate(timeout=TIMEOUT_S)
        assert (view.returncode, stderr) == (0, "")


def test_no_server_there_is_an_error_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sim_stream.view.app.TIMEOUT_S", 0.2)
    assert cli.main(["view", "--port", "0", "--server", "tcp://127.0.0.1:9"]) == cli.MISTAKE
    assert "no answer from tcp://127.0.0.1:9" in capsys.readouterr().err


def test_without_aiohttp_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert cli.main(["view"]) == cli.MISTAKE
    assert "sim-stream[view]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"port": 65536}, "port"),
        ({"seed": 2**53}, "seed"),
        ({"subscribe": "tcp://127.0.0.1:1"}, "subscribe"),
        ({"key": "mine.secret"}, "key"),
        ({"server": "tcp://127.0.0.1:1", "preset": "openviga"}, "preset"),
        ({"server": "tcp://127.0.0.1:1", "threads": 2}, "threads"),
    ],
)
def test_options_that_cannot_be_are_refused(options, field):
    with pytest.raises(InvalidInput) as refused:
        ViewOptions(**options)
    assert refused.value.field == field
