"""A session is opened, or forked, exactly once, however often its client has to ask."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from sim_stream.errors import RemoteError
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.exactly_once import ENDED_KEPT
from tests.wire.conftest import TIMEOUT_S, frames_spec
from tests.wire.lossy import LossyProxy
from tests.wire.toy import drive, prompt_frames

PATIENCE_S = 0.9  # a third of it goes into each attempt


def ask_open(raw, **fields):
    frames = fields.pop("frames", prompt_frames())
    return raw.ask({"t": "open", "arrays": [frames_spec(frames)]} | fields, frames.tobytes())


def test_repeated_open_brings_the_same_session(raw):
    first, again = ask_open(raw, idempotency_key="k"), ask_open(raw, idempotency_key="k")
    assert again.pop("rid") == first.pop("rid") + 1
    assert again == first and first["t"] == "opened"
    assert raw.ask({"t": "heartbeat"})["sessions"] == 1


def test_open_repeated_while_under_way_is_answered_twice_and_done_once(raw, runtime):
    started, go = threading.Event(), threading.Event()

    def hold(session, step):
        started.set()
        assert go.wait(TIMEOUT_S)

    runtime.hooks.render = hold
    frames = prompt_frames()
    header = {"t": "open", "arrays": [frames_spec(frames)], "idempotency_key": "k"}
    rids = {raw.send(header, frames.tobytes()) for _ in range(4)}
    assert started.wait(TIMEOUT_S)
    refused = raw.ask(header, frames.tobytes())
    assert (refused["code"], refused["retryable"]) == ("BUSY", True)
    go.set()
    replies = [raw.receive() for _ in rids]
    assert {reply["rid"] for reply in replies} == rids
    assert len({reply["sid"] for reply in replies}) == runtime.sessions_open == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"frames": prompt_frames(key=1)}])
def test_key_with_another_content_is_a_conflict(raw, change):
    ask_open(raw, idempotency_key="k")
    assert ask_open(raw, idempotency_key="k", **change)["code"] == "STEP_CONFLICT"
    assert raw.ask({"t": "heartbeat"})["sessions"] == 1


def test_opens_without_a_key_are_sessions_of_their_own(raw):
    assert ask_open(raw)["sid"] != ask_open(raw)["sid"]


def test_repeated_fork_brings_the_same_session_after_steps_of_both(raw):
    sid = raw.open()
    fork = {"t": "fork", "sid": sid, "idempotency_key": "k"}
    child = raw.ask(fork)["sid"]
    for one in (sid, child):
        raw.ask({"t": "step", "sid": one, "step": 1})
    again = raw.ask(fork)
    assert (again["t"], again["sid"], again["committed_step"]) == ("opened", child, 0)
    assert raw.ask({"t": "fork", "sid": child, "idempotency_key": "k"})["code"] == "STEP_CONFLICT"


def test_refused_open_may_be_asked_for_again_with_its_key(raw):
    sids = [raw.open() for _ in range(4)]
    assert ask_open(raw, idempotency_key="k")["code"] == "LIMIT"
    raw.ask({"t": "close", "sid": sids[0]})
    assert ask_open(raw, idempotency_key="k")["t"] == "opened"


def test_open_that_failed_in_the_engine_may_be_asked_for_again_with_its_key(raw, runtime):
    def fail(session, step):
        raise RuntimeError("device lost")

    working, runtime.hooks.render = runtime.hooks.render, fail
    assert ask_open(raw, idempotency_key="k")["code"] == "ENGINE_FAILED"
    runtime.hooks.render = working
    assert ask_open(raw, idempotency_key="k")["t"] == "opened"


def test_key_of_an_ended_session_opens_nothing_and_is_forgotten_in_the_end(raw):
    def open_and_close(key):
        raw.ask({"t": "close", "sid": ask_open(raw, idempotency_key=key)["sid"]})

    open_and_close("k")
    assert ask_open(raw, idempotency_key="k")["code"] == "NO_SESSION"
    for other in range(ENDED_KEPT):
        open_and_close(f"{other}")
    assert ask_open(raw, idempotency_key="k")["t"] == "opened"


@pytest.mark.parametrize("lost", ["lose_requests", "lose_replies"])
def test_client_opens_forks_and_closes_once_over_a_lossy_network(server, runtime, lost):
    with LossyProxy(server.endpoint) as proxy, StreamClient(server.endpoint) as direct:
        expected = direct.open(prompt_frames())
        with StreamClient(proxy.endpoint, timeout_s=PATIENCE_S) as client:

            def losing(call, *arguments):
                before = proxy.requests
                setattr(proxy, lost, 1)
                done = call(*arguments)
                assert getattr(proxy, lost) == 0 and proxy.requests == before + 2
                return done

            session = losing(client.open, prompt_frames())
            np.testing.assert_array_equal(session.frame.image, expected.frame.image)
            twin = losing(session.fork)
            for one in (session, twin):
                frame = losing(one.step, drive(1)[0])
                assert frame.step == 1
            assert runtime.sessions_open == 3
            last = losing(session.close)
            assert last.frame_id == 1 and losing(client.status).sessions == 2


def test_asyncio_client_opens_and_steps_once_over_a_lossy_network(server, runtime):
    async def main(proxy):
        async with AsyncStreamClient(proxy.endpoint, timeout_s=PATIENCE_S) as client:
            proxy.lose_replies = 1
            session = await client.open(prompt_frames())
            proxy.lose_requests = 1
            assert (await session.step()).step == 1
            assert (proxy.lose_replies, proxy.lose_requests) == (0, 0)
            assert (await client.status()).sessions == runtime.sessions_open == 1

    with LossyProxy(server.endpoint) as proxy:
        asyncio.run(main(proxy))


def test_step_that_the_server_is_too_busy_to_promise_again_stays_in_flight(server, runtime):
    go, calls = threading.Event(), []

    def hold(session, step):
        calls.append(step)
        assert go.wait(TIMEOUT_S)

    with StreamClient(server.endpoint, timeout_s=0.3) as client:
        session = client.open(prompt_frames())
        runtime.hooks.predict = hold
        codes = set()
        session.send_step()
        for _ in range(3):
            with pytest.raises(RemoteError) as caught:
                session.receive()
            codes.add(caught.value.code)
        assert codes == {"CONNECTION_LOST", "BUSY"} and session.in_flight == 1
        go.set()
        while session.status().committed_step < 1:
            time.sleep(0.01)
        assert session.receive().step == 1 and calls == [1]
