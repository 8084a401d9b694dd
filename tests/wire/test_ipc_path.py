"""``ipc://`` paths: what is there is never taken from anybody, and the dead are replaced."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from sim_stream.errors import InvalidInput, SimStreamError, Unavailable
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server import ipc_path
from sim_stream.wire.server.server import StreamServer
from tests.faults.processes import toy_server
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy import ToyModel

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")


def epoch(endpoint: str) -> str:
    with StreamClient(endpoint, timeout_s=TIMEOUT_S) as client:
        return client.info.server_epoch


@pytest.mark.parametrize("option", ["bind", "publish"])
def test_a_path_on_which_a_server_listens_is_refused_and_stays_its(serve, tmp_path, option):
    first = serve(**{option: f"ipc://{tmp_path}/s"})
    before = epoch(first.endpoint)
    with pytest.raises(Unavailable, match=r"cannot bind ipc://.*/s: a server listens there"):
        serve(**{option: f"ipc://{tmp_path}/s"})
    assert epoch(first.endpoint) == before


def put_there(path: Path, kind: str) -> None:
    match kind:
        case "a file":
            path.write_text("mine")
        case "a folder":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case "a link":
            path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("kind", ["a file", "a folder", "a FIFO", "a link"])
@pytest.mark.parametrize("option", ["bind", "publish"])
def test_what_is_no_socket_is_named_and_left_alone(serve, tmp_path, option, kind):
    path = tmp_path / "notes.txt"
    put_there(path, kind)
    with pytest.raises(Unavailable, match=f"notes.txt: {kind} is there"):
        serve(**{option: f"ipc://{path}"})
    assert os.path.lexists(path) and path.is_symlink() == (kind == "a link")
    assert kind != "a file" or path.read_text() == "mine"


def test_another_programs_socket_is_left_alone(serve, tmp_path):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        path = tmp_path / f"s{int(kind)}"
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(path))
            with ExitStack() as waiting:
                if kind == socket.SOCK_STREAM:
                    other.listen(0)
                    for _ in range(3):  # its queue is full
                        peer = waiting.enter_context(socket.socket(socket.AF_UNIX))
                        peer.setblocking(False)
                        peer.connect_ex(str(path))
                with pytest.raises(Unavailable, match="a server listens there"):
                    serve(bind=f"ipc://{path}")
            assert path.is_socket()


def test_a_killed_servers_socket_is_replaced_and_a_stopped_ones_is_gone(serve, tmp_path):
    path = tmp_path / "s"
    with toy_server(f"--bind=ipc://{path}") as killed:
        killed.kill()
    assert path.is_socket()
    server = serve(bind=f"ipc://{path}")
    assert epoch(server.endpoint)
    server.stop()
    assert not path.exists()
    server.start()
    assert epoch(server.endpoint)


def test_a_stopped_server_leaves_its_successors_socket_alone(serve, tmp_path):
    path = tmp_path / "s"
    first = serve(bind=f"ipc://{path}")
    path.unlink()
    second = serve(bind=f"ipc://{path}")
    before = epoch(second.endpoint)
    first.stop()
    assert epoch(second.endpoint) == before


def test_of_many_servers_at_once_one_gets_the_path(tmp_path):
    with toy_server(f"--bind=ipc://{tmp_path}/s") as killed:
        killed.kill()
    servers = [StreamServer(ToyModel(), bind=f"ipc://{tmp_path}/s") for _ in range(8)]
    refused: list[str] = []
    together = threading.Barrier(len(servers))

    def start(server: StreamServer) -> None:
        together.wait()
        try:
            server.start()
        except Unavailable as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(refused) == 7 and all("a server listens there" in text for text in refused)
        assert epoch(f"ipc://{tmp_path}/s")
    finally:
        for server in servers:
            server.stop()


def test_a_name_that_is_too_long_or_in_no_folder_is_named(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limit = ipc_path.PATH_BYTES
    with pytest.raises(InvalidInput, match=rf"bind: got ipc://x+ \({limit + 1} bytes\); allowed"):
        serve(bind=f"ipc://{'x' * (limit + 1)}")
    with pytest.raises(InvalidInput, match="bytes"):
        serve(publish=f"ipc://{'é' * (limit // 2 + 1)}")
    assert epoch(serve(bind=f"ipc://{'x' * limit}").endpoint)
    with pytest.raises(Unavailable, match="there is no folder nowhere; make it first"):
        serve(bind="ipc://nowhere/s")
    (tmp_path / "file").touch()
    with pytest.raises(SimStreamError, match="file/s: Not a directory"):
        serve(bind="ipc://file/s")


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_an_abstract_name_is_served_and_deletes_no_file(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"@sim-stream-test-{os.getpid()}"
    (tmp_path / name).write_text("mine")
    first = serve(bind=f"ipc://{name}")
    assert epoch(f"ipc://{name}")
    with pytest.raises(Unavailable, match="a server listens there"):
        serve(bind=f"ipc://{name}")
    first.stop()
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(InvalidInput, match="ipc://@"):
        serve(bind="ipc://@")


def test_a_socket_goes_with_a_server_that_is_told_to_end(tmp_path):
    with toy_server(f"--bind=ipc://{tmp_path}/s") as server:
        server.signal(signal.SIGTERM)
        server.end()
    assert not (tmp_path / "s").exists()
