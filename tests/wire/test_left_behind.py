"""However a client, a session or an opening ends, it leaves no session at the server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from sim_stream.errors import ConnectionLost, InvalidInput
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.recorder import Recorder
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import Close
from tests.wire.conftest import ROOT, TIMEOUT_S
from tests.wire.toy import prompt_frames

FRAMES = prompt_frames()
LEASE_S = 3600.0


@pytest.fixture
def server(serve):
    return serve(lease_s=LEASE_S)


def becomes(watch: StreamClient, *sessions: int) -> bool:
    """Soon; the lease of this file's servers is an hour."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while watch.status().sessions not in sessions:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def held(runtime) -> tuple[threading.Event, threading.Event]:
    """Openings wait in the engine from here: (one has come, they may go on)."""
    came, go, plain = threading.Event(), threading.Event(), runtime.open_session

    def open_session(**options):
        came.set()
        assert go.wait(TIMEOUT_S)
        return plain(**options)

    runtime.open_session = open_session
    return came, go


def test_a_session_that_goes_out_of_scope_is_closed_at_once(client):
    def drive(**options):
        session = client.open(FRAMES, **options)
        return session.step().image, session.fork().frame

    drive()
    drive(mode="realtime")
    session = client.open(FRAMES)
    session.send_step()
    del session
    assert becomes(client, 0)


def test_a_session_in_a_cycle_is_closed_when_it_is_collected(client):
    session = client.open(FRAMES)
    cycle = [session]
    cycle.append(cycle)
    del session, cycle
    gc.collect()
    assert becomes(client, 0)


def test_a_session_that_another_thread_drops_is_closed_with_the_next_call(client):
    kept = [client.open(FRAMES)]
    with client.open(FRAMES) as other:
        dropping = threading.Thread(target=kept.clear)
        dropping.start()
        dropping.join()
        other.step()
        assert becomes(client, 1)


def test_a_session_dropped_by_another_thread_in_the_middle_of_a_call_is_closed_after_it(
    client, runtime
):
    kept, session = [client.open(FRAMES)], client.open(FRAMES)

    def drop(session, step):
        runtime.hooks.predict = lambda session, step: None
        kept.clear()

    runtime.hooks.predict = drop
    assert session.step().step == 1
    assert becomes(client, 1)
    assert session.step().step == 2


def test_an_error_that_passes_through_leaves_none(client):
    def fails():
        session, twin = client.open(FRAMES), None
        twin = session.fork()
        session.step(), twin.step()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert becomes(client, 0)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_client_that_ends_before_its_sessions_ends_them(server, client, how):
    def use():
        other = StreamClient(server.endpoint, timeout_s=TIMEOUT_S)
        kept = [other.open(FRAMES) for _ in range(2)]
        other.open(FRAMES)  # dropped before the client is closed
        kept.append(kept[0].fork())
        if how == "close":
            other.close()
        return kept

    kept = use()
    if how == "drop":
        assert [session.step().step for session in kept] == [1, 1, 1]  # they keep the connection
        kept.clear()
    assert becomes(client, 0)


def test_an_opening_given_up_after_the_timeout_is_closed_when_it_stands(server, client, runtime):
    came, go = held(runtime)
    with StreamClient(server.endpoint, timeout_s=0.3) as hasty:
        with pytest.raises(ConnectionLost):
            hasty.open(FRAMES)
        assert came.is_set() and client.status().sessions == 1
        go.set()
        assert becomes(client, 0)


def test_a_fork_given_up_after_the_timeout_is_closed_when_it_stands(server, client, runtime):
    came, go = threading.Event(), threading.Event()

    def hold(session, step):
        came.set()
        assert go.wait(TIMEOUT_S)

    hasty = StreamClient(server.endpoint, timeout_s=0.3, busy_s=0.3)
    with hasty, hasty.open(FRAMES) as session:
        session.step()
        blocker = client.open(FRAMES)
        runtime.hooks.predict = hold
        blocker.send_step()
        assert came.wait(TIMEOUT_S)  # the engine is busy with it
        with pytest.raises(ConnectionLost):
            session.fork()
        go.set()
        assert becomes(client, 2)
        assert session.step().step == 2


def test_an_opening_whose_reply_makes_no_sense_is_closed(server, client, monkeypatch):
    def refuse(*_):
        raise InvalidInput("reply.images", "nothing", "an image")

    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:
        with monkeypatch.context() as patched:
            patched.setattr("sim_stream.wire.client.stream.remote_chunk", refuse)
            with pytest.raises(InvalidInput, match="image"):
                other.open(FRAMES)
        assert becomes(client, 0)


def test_an_opening_that_ctrl_c_ends_is_closed_when_it_stands(server, client, runtime):
    came, go = held(runtime)

    def interrupt():
        assert came.wait(TIMEOUT_S)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=interrupt)
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            other.open(FRAMES)
    pressing.join()
    go.set()
    assert becomes(client, 0)


def test_cancelled_openings_of_an_asyncio_client_are_closed_when_they_stand(
    server, client, runtime
):
    came, go = held(runtime)

    async def main():
        async with AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(other.open(FRAMES), 0.05)
            task = asyncio.create_task(other.open(FRAMES))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
            session = await other.open(FRAMES)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await session.fork()
            assert await asyncio.to_thread(becomes, client, 1)
            assert (await session.step()).step == 1

    asyncio.run(main())
    assert came.is_set() and becomes(client, 0)


def test_what_an_asyncio_program_drops_is_closed(server, client):
    async def drops_the_session():
        async with AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:

            async def drive():
                session = await other.open(FRAMES)
                return (await session.step()).image, (await session.fork()).frame

            await drive()
            assert await asyncio.to_thread(becomes, client, 0)

    async def drops_the_client():
        other = await AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S).__aenter__()
        session = await other.open(FRAMES)
        del other
        assert (await session.step()).step == 1
        del session
        assert await asyncio.to_thread(becomes, client, 0)

    async def leaves_everything_open(kept):
        kept.append(await AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S).__aenter__())
        kept.append(await kept[0].open(FRAMES))

    asyncio.run(drops_the_session())
    asyncio.run(drops_the_client())
    kept: list[object] = []
    asyncio.run(leaves_everything_open(kept))
    kept.clear()  # its event loop is closed
    gc.collect()
    assert becomes(client, 0)


def test_a_cancelled_asyncio_program_leaves_none(server, client):
    async def main():
        async with AsyncStreamClient(server.endpoint, timeout_s=TIMEOUT_S) as other:
            sessions = [await other.open(FRAMES) for _ in range(3)]
            await asyncio.gather(*(session.step() for session in sessions))
            await asyncio.sleep(TIMEOUT_S)

    async def cancelled():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(main(), 1.0)

    asyncio.run(cancelled())
    assert becomes(client, 0)


SCRIPTS = {
    "its end": "",
    "an error": "raise ZeroDivisionError",
    "sys.exit": "sys.exit(3)",
    "a thread in the middle of a step": """
        threading.Thread(target=lambda: [session.step() for _ in range(10**6)], daemon=True).start()
        time.sleep(0.2)
        other = client2.open(frames)
    """,
}


@pytest.mark.parametrize("end", SCRIPTS)
def test_a_program_that_closes_nothing_leaves_none(server, client, end):
    script = f"""
        import sys, threading, time
        from sim_stream import StreamClient
        from tests.wire.toy import prompt_frames

        frames = prompt_frames()
        client, client2 = StreamClient({server.endpoint!r}), StreamClient({server.endpoint!r})
        session = client.open(frames)
        twin = session.fork()
        del twin
    """
    program = textwrap.dedent(script) + textwrap.dedent(SCRIPTS[end])
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    # While a thread uses the socket nobody else may: then its session's lease ends it.
    assert becomes(client, *((0, 1) if "thread" in end else (0,)))


def close_by_key(client: StreamClient, key: str):
    connection = client._connection
    return connection.wait(connection.send(Close(sid="", idempotency_key=key)), TIMEOUT_S).message


def test_a_close_by_key_ends_what_stands_and_what_comes_later(server, client, raw):
    sid = raw.open(idempotency_key="mine")
    assert close_by_key(client, "mine").sid == sid
    assert becomes(client, 0)
    assert close_by_key(client, "mine").sid == ""
    assert close_by_key(client, "nobodys").sid == ""
    for key in ("mine", "nobodys"):
        assert raw.ask_open(idempotency_key=key)["code"] == "NO_SESSION"
    assert raw.ask_open(idempotency_key="another")["t"] == "opened"


def test_closes_of_unknown_keys_are_remembered_within_bounds(client, raw):
    for number in range(40):
        close_by_key(client, f"key {number}")
    assert raw.ask_open(idempotency_key="key 39")["code"] == "NO_SESSION"
    assert raw.ask_open(idempotency_key="key 0")["t"] == "opened"


def test_a_recorded_session_that_nobody_waited_for_is_not_resumed(serve, runtime, tmp_path):
    with Recorder(tmp_path, by="server") as recorder:
        server = serve(lease_s=LEASE_S, observer=recorder, archive=RecordedSessions(tmp_path))
        came, go = held(runtime)
        with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as watch:
            with (
                StreamClient(server.endpoint, timeout_s=0.3) as hasty,
                pytest.raises(ConnectionLost),
            ):
                hasty.open(FRAMES)
            assert came.is_set()
            go.set()
            assert becomes(watch, 0)
