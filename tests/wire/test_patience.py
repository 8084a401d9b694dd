"""Who waits for what: nobody listens, a server computes, a server is silent."""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
import threading
import time

import numpy as np
import pytest

from sim_stream.errors import ConnectionLost, InvalidInput, NobodyListens, RemoteError
from sim_stream.wire.client import patience
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import Heartbeat
from tests.wire.conftest import TIMEOUT_S
from tests.wire.lossy import LossyProxy
from tests.wire.toy import drive, prompt_frames

FRAMES = prompt_frames()
STEPS_S = 2.5  # what a step takes that is longer than these clients' timeout_s


def connect(endpoint: str, **options) -> None:
    StreamClient(endpoint, **options).close()


def connect_async(endpoint: str, **options) -> None:
    async def main():
        async with AsyncStreamClient(endpoint, **options):
            pass

    asyncio.run(main())


both = pytest.mark.parametrize("connecting", [connect, connect_async])


@pytest.fixture(params=["tcp", "ipc"])
def nowhere(request, tmp_path) -> str:
    if request.param == "ipc":
        return f"ipc://{tmp_path}/nobody"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"tcp://127.0.0.1:{taken.getsockname()[1]}"


@both
def test_where_nobody_listens_the_error_says_what_to_start_long_before_the_timeout(
    connecting, nowhere
):
    begin_s = time.monotonic()
    with pytest.raises(NobodyListens) as caught:
        connecting(nowhere, timeout_s=600.0)
    assert time.monotonic() - begin_s >= patience.CONNECT_TIMEOUT_S
    said = f"nobody listens at {nowhere}; start it: sim-stream serve --bind {nowhere}"
    assert said in str(caught.value) and "within 2 s" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@both
def test_a_timeout_that_is_shorter_says_so_too(connecting, nowhere):
    with pytest.raises(ConnectionLost, match=r"within 0\.5 s: nobody listens at"):
        connecting(nowhere, timeout_s=0.5)


@both
def test_a_longer_wait_finds_a_server_that_comes_later(connecting, server, serve):
    endpoint, errors = server.endpoint, []
    server.stop()

    def wait():
        try:
            connecting(endpoint, timeout_s=600.0, connect_timeout_s=600.0)
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(patience.CONNECT_TIMEOUT_S + 0.5)
    serve(bind=endpoint)
    waiting.join(TIMEOUT_S)
    assert not waiting.is_alive() and not errors


@both
def test_who_listens_and_says_nothing_is_not_taken_for_nobody(connecting):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ConnectionLost, match=r"within 3 s$") as caught:
            connecting(endpoint, timeout_s=3.0)
        assert not isinstance(caught.value, NobodyListens)


@both
def test_who_breaks_off_and_then_leaves_is_nobody_in_the_end(connecting):
    with socket.create_server(("127.0.0.1", 0)) as rude:
        endpoint = f"tcp://127.0.0.1:{rude.getsockname()[1]}"

        def break_off():
            for _ in range(2):
                rude.accept()[0].close()
            rude.close()

        leaving = threading.Thread(target=break_off)
        leaving.start()
        with pytest.raises(NobodyListens):
            connecting(endpoint, timeout_s=600.0)
        leaving.join(TIMEOUT_S)


@pytest.mark.parametrize("name", ["connect_timeout_s", "busy_s"])
@pytest.mark.parametrize("value", [-1, float("nan"), "2"])
def test_impossible_waits_are_refused(name, value):
    for kind in (StreamClient, AsyncStreamClient):
        with pytest.raises(InvalidInput, match=name):
            kind(**{name: value})


def test_a_server_that_was_there_and_has_gone_is_named_in_the_error(server, client):
    with StreamClient(server.endpoint, timeout_s=2.0) as other:
        session = other.open(FRAMES)
        server.stop()
        with pytest.raises(RemoteError):  # its shutdown notice
            session.step()
        with pytest.raises(ConnectionLost, match="nobody listens"):
            other.open(FRAMES)


def slow(runtime) -> None:
    """The next step takes longer than these clients' timeout; openings, too."""
    plain = runtime.open_session

    def predict(session, step):
        time.sleep(STEPS_S)
        runtime.hooks.predict = lambda session, step: None

    def open_session(**options):
        time.sleep(STEPS_S)
        runtime.open_session = plain
        return plain(**options)

    runtime.hooks.predict, runtime.open_session = predict, open_session


def test_a_server_that_computes_is_waited_for_beyond_the_timeout(server, client, runtime):
    with client.open(FRAMES) as reference:
        expected = [reference.step(action).image for action in drive(2)]
    slow(runtime)
    with StreamClient(server.endpoint, timeout_s=2.0) as other:
        begin_s = time.monotonic()
        with other.open(FRAMES) as session:
            frames = [session.step(action) for action in drive(2)]
        assert time.monotonic() - begin_s >= 2 * STEPS_S
    assert [frame.step for frame in frames] == [1, 2]
    np.testing.assert_array_equal([frame.image for frame in frames], expected)


def test_an_asyncio_client_waits_for_a_server_that_computes_beside_others_that_answer(
    server, runtime
):
    async def main():
        async with AsyncStreamClient(server.endpoint, timeout_s=2.0) as client:
            quick = await client.open(FRAMES)
            slow(runtime)
            session = await client.open(FRAMES)
            stepping = asyncio.create_task(session.step(drive(1)[0]))
            while not stepping.done():  # their replies are no sign of the other's
                await client.status()
                await asyncio.sleep(0.05)
            assert (await stepping).step == 1
            assert (await quick.step()).step == 1

    asyncio.run(main())


def test_busy_s_bounds_the_wait_and_the_error_says_that_the_server_is_alive(server, runtime):
    go = threading.Event()
    with StreamClient(server.endpoint, timeout_s=2.0, busy_s=3.0) as client:
        session = client.open(FRAMES)
        runtime.hooks.predict = lambda session, step: go.wait(4 * TIMEOUT_S)
        with pytest.raises(ConnectionLost, match="within 3 s: the server is alive and computing"):
            session.step()
        go.set()
        assert session.receive().step == 1


def test_a_server_that_is_frozen_is_lost_within_the_timeout(server_process):
    with StreamClient(server_process.endpoint, timeout_s=2.0) as client:
        session = client.open(FRAMES)
        server_process.process.send_signal(signal.SIGSTOP)
        try:
            begin_s = time.monotonic()
            with pytest.raises(ConnectionLost) as caught:
                session.step()
            assert time.monotonic() - begin_s < patience.BUSY_S / 2
            assert "alive" not in str(caught.value) and "nobody" not in str(caught.value)
        finally:
            server_process.process.send_signal(signal.SIGCONT)
        assert session.receive().step == 1


def test_a_lost_request_or_reply_is_asked_again_although_heartbeats_are_answered(server):
    with (
        LossyProxy(server.endpoint) as proxy,
        StreamClient(proxy.endpoint, timeout_s=6.0) as client,
    ):
        session = client.open(FRAMES)
        for lose in ("lose_requests", "lose_replies"):
            setattr(proxy, lose, 1)
            begin_s = time.monotonic()
            session.step()
            assert time.monotonic() - begin_s < patience.BUSY_S / 2
        assert session.step().step == 3


def test_a_long_wait_is_logged_with_what_is_known(server, runtime, caplog, monkeypatch):
    monkeypatch.setattr(patience, "TOLD_AFTER_S", 1.5)
    slow(runtime)
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        client.open(FRAMES)
    said = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert [line.endswith("it is alive and computing") for line in said] == [True] * len(said)
    assert 1 <= len(said) <= 3


def test_status_says_whether_a_request_is_still_owed_to_that_connection(server, raw, runtime):
    came, go = threading.Event(), threading.Event()

    def hold(session, step):
        came.set()
        assert go.wait(TIMEOUT_S)

    sid = raw.open()
    runtime.hooks.predict = hold
    rid = raw.send({"t": "step", "sid": sid, "step": 1})
    assert came.wait(TIMEOUT_S)
    assert raw.ask({"t": "heartbeat", "awaiting": rid})["pending"] == rid
    assert raw.ask({"t": "heartbeat", "awaiting": rid + 77})["pending"] == 0
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:  # another's are not told
        asked = other._connection.send(Heartbeat(awaiting=rid))
        assert other._connection.wait(asked, TIMEOUT_S).message.pending == 0
    go.set()
    assert raw.receive()["t"] == "frames"
    assert raw.ask({"t": "heartbeat", "awaiting": rid})["pending"] == 0


def test_what_is_owed_is_forgotten_with_every_kind_of_reply(server, raw, runtime):
    """A server that remembered more would grow with every request."""
    sid = raw.open(idempotency_key="k")
    raw.ask_open(idempotency_key="k")
    twin = raw.ask({"t": "fork", "sid": sid})["sid"]
    for step in range(1, 4):
        raw.ask({"t": "step", "sid": sid, "step": step})
    refused = {"t": "step", "sid": sid, "step": 4}
    raw.ask(refused | {"inputs": {"speed_mps": 999.0, "yaw_rate_radps": 0.0}})
    realtime = raw.open(mode="realtime")
    for step in range(1, 9):
        raw.send({"t": "step", "sid": realtime, "step": step})
    for _ in range(8):
        raw.receive()
    for one in (sid, twin, realtime):
        raw.ask({"t": "close", "sid": one})
    assert not server._io._dispatcher._owed
