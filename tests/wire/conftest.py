"""Real servers over real sockets, a raw client that may send anything, and a server process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.server.server import StreamServer
from tests.wire.toy import SIZE, ToyModel, prompt_frames

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 10.0


class RawClient:
    """A DEALER that speaks msgpack by hand."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys is not None:
            keys.secure(self.socket)
        self.socket.connect(endpoint)
        self.rid = 0

    def send(self, header: dict[str, Any] | bytes, *parts: Any) -> int:
        self.rid += 1
        if isinstance(header, dict):
            header = msgpack.packb({"v": 2, "rid": self.rid} | header)
        self.socket.send_multipart([header, *parts])
        return self.rid

    def receive(self) -> dict[str, Any]:
        assert self.socket.poll(TIMEOUT_S * 1e3), "no reply"
        header, *parts = self.socket.recv_multipart()
        return msgpack.unpackb(header) | {"parts": parts}

    def ask(self, header: dict[str, Any] | bytes, *parts: Any) -> dict[str, Any]:
        self.send(header, *parts)
        return self.receive()

    def ask_open(self, **fields: Any) -> dict[str, Any]:
        frames = prompt_frames()
        return self.ask({"t": "open", "arrays": [frames_spec(frames)]} | fields, frames.tobytes())

    def open(self, **fields: Any) -> str:
        reply = self.ask_open(**fields)
        assert reply["t"] == "opened", reply
        return reply["sid"]

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def frames_spec(frames: np.ndarray, **changes: Any) -> dict[str, Any]:
    spec = {"name": "frames", "dtype": "|u1", "shape": list(frames.shape), "nbytes": frames.nbytes}
    return spec | changes


@pytest.fixture
def runtime() -> ToyModel:
    return ToyModel()


@pytest.fixture
def serve(runtime: ToyModel) -> Iterator[Callable[..., StreamServer]]:
    """Starts servers on free ports; stops them afterwards."""
    servers: list[StreamServer] = []

    def start(**options: Any) -> StreamServer:
        server = StreamServer(runtime, **({"bind": "tcp://127.0.0.1:0"} | options))
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., StreamServer]) -> StreamServer:
    return serve()


@pytest.fixture
def client(server: StreamServer) -> Iterator[StreamClient]:
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def raw(server: StreamServer) -> Iterator[RawClient]:
    raw = RawClient(server.endpoint)
    yield raw
    raw.close()


class ServerProcess:
    """The toy server as a process; ``endpoint`` once it says that it is ready.

    ``prefix``: a command that runs the server's.
    """

    def __init__(self, *options: str, prefix: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.wire.toy_server", *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        ready = re.search(r"ready: (tcp://\S+)", line)
        assert ready, line
        self.endpoint = ready[1]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Exit status and the rest of the log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, log


@pytest.fixture
def server_process() -> Iterator[ServerProcess]:
    server = ServerProcess()
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


__all__ = ["SIZE", "TIMEOUT_S", "RawClient", "ServerProcess", "frames_spec"]
