"""``sim-stream view`` as a user runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import aiohttp
import pytest

from sim_stream import cli
from sim_stream.errors import InvalidInput
from sim_stream.view.options import ViewOptions
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.keys import write_pair
from sim_stream.wire.server.auth import Guard
from sim_stream.wire.server.server import StreamServer
from tests.view.conftest import TestViewer
from tests.wire.conftest import ROOT, TIMEOUT_S
from tests.wire.toy import ToyModel

COMMAND = (sys.executable, "-m", "sim_stream", "view", "--port", "0")
START_S = 60.0
LOCAL = "tcp://127.0.0.1:0"


@pytest.fixture
def server():
    with StreamServer(ToyModel(), bind=LOCAL) as server:
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


def children_of(pid: int) -> list[int]:
    """Of all its threads: a server that is started again is started by another one."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def until(true, what):
    async with asyncio.timeout(START_S):
        while not true():
            await asyncio.sleep(0.05)
    return what


async def follow_a_server_that_is_killed(process, url):
    """What a viewer sees of it: the outage, the end of the session, and a new one."""
    headers = {"Origin": url.rstrip("/")}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url + "socket", headers=headers) as socket,
    ):
        viewer = TestViewer(socket, draws=True)
        await viewer.until(lambda: viewer.watching)
        first = viewer.watching
        await viewer.send("run", sid=first, running=True)
        await viewer.until(lambda: viewer.session(first)["committed_step"] >= 2)
        (server,) = children_of(process.pid)
        os.kill(server, signal.SIGKILL)
        await viewer.until(lambda: viewer.state["outage"])
        assert "The server died: it was ended by SIGKILL" in viewer.state["outage"]
        assert "started again" in viewer.state["outage"]
        assert viewer.session(first)["state"] == "waiting"
        await viewer.send("open", seed=1)
        await viewer.until(lambda: viewer.notices)
        assert "none now. The server" in viewer.notices[-1]
        await viewer.until(lambda: not viewer.state["outage"])
        await viewer.until(lambda: viewer.session(first)["state"] == "ended")
        assert "has this session no more" in viewer.session(first)["note"]
        await viewer.send("open", seed=1)
        await viewer.until(lambda: viewer.watching not in (first, "", None))
        assert viewer.session()["state"] == "paused"
        (again,) = children_of(process.pid)
        assert again != server


def test_its_own_server_is_started_again_when_it_dies_but_not_for_ever():
    view = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        word, url, *_ = view.stdout.readline().split()
        assert word == "ready"
        asyncio.run(follow_a_server_that_is_killed(view, url))
        killed = set()
        while view.poll() is None:
            for child in set(children_of(view.pid)) - killed:
                killed.add(child)
                os.kill(child, signal.SIGKILL)
            time.sleep(0.05)
        _, stderr = view.communicate(timeout=START_S)
    finally:
        view.kill()
        view.communicate()
    last = stderr.splitlines()[-1]
    assert view.returncode == 2
    assert last.startswith("sim-stream view: the server died, 3 times in a row: ")
    assert "SIGKILL" in last and "Traceback" not in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_it_leaves_no_server_behind(number):
    view = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert view.stdout.readline().startswith("ready ")
        (server,) = children_of(view.pid)
        view.send_signal(number)
        status = view.wait(START_S)
        assert status == (-number if number == signal.SIGKILL else 0)
        asyncio.run(until(lambda: gone(server), "the server has ended"))
    finally:
        view.kill()
        view.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
    with StreamServer(ToyModel(), bind=LOCAL, publish=publish, guard=guard) as server:
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
        ({"max_sessions": 0}, "max_sessions"),
        ({"server": "tcp://127.0.0.1:1", "record": Path("r")}, "record"),
        ({"server": "tcp://127.0.0.1:1", "preset": "openviga"}, "preset"),
        ({"server": "tcp://127.0.0.1:1", "threads": 2}, "threads"),
    ],
)
def test_options_that_cannot_be_are_refused(options, field):
    with pytest.raises(InvalidInput) as refused:
        ViewOptions(**options)
    assert refused.value.field == field
