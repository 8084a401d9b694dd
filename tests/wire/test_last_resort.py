"""Whatever fails inside the server: it is answered, counted, logged, and everybody else goes on.

Exceptions are planted where no exception belongs, in a server with real sockets, at one place after
another and several times in a row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sim_stream.errors import Unavailable
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.wire import framing
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server import dispatch, worker
from sim_stream.wire.server.admission import Admission
from sim_stream.wire.server.connections import Connections
from sim_stream.wire.server.dispatch import Dispatcher
from sim_stream.wire.server.doorkeeper import Doorkeeper
from sim_stream.wire.server.exactly_once import Openings, SessionRecord
from sim_stream.wire.server.host import SessionHost
from sim_stream.wire.server.inbox import Inbox
from sim_stream.wire.server.io_loop import IoLoop
from sim_stream.wire.server.server import StreamServer
from sim_stream.wire.server.sessions import Sessions
from sim_stream.wire.server.worker import EngineWorker, Wake
from tests.wire.conftest import TIMEOUT_S, RawClient, frames_spec
from tests.wire.toy import ToyModel, ToyPrediction, prompt_frames

FRAMES = prompt_frames()
LEASE_S = 3.0

# Where it is planted. The thread that moves the messages, then the engine's, then the decoder's.
PLACES: dict[str, tuple[Any, str]] = {
    "a request": (Dispatcher, "on_request"),
    "its admission": (Admission, "refusal"),
    "its decoding": (dispatch.codec, "decode_request"),
    "its arrays": (dispatch, "unpack"),
    "its rules": (Dispatcher, "_answer"),
    "its session": (Sessions, "seen"),
    "its job": (Sessions, "submit"),
    "the queue": (Inbox, "put"),
    "the session's making": (Openings, "begin"),
    "a step seen before": (SessionRecord, "recall"),
    "a step accepted": (SessionRecord, "accept"),
    "a result": (Dispatcher, "on_result"),
    "its reply": (dispatch, "reply_to"),
    "the end of a step": (SessionRecord, "finish"),
    "the end of another job": (Sessions, "complete"),
    "the end of an opening": (Openings, "finish"),
    "the end of a session": (Openings, "end"),
    "replies that were held": (Dispatcher, "release"),
    "leases": (Dispatcher, "expire"),
    "writing a reply": (framing, "pack"),
    "sending a reply": (IoLoop, "_send"),
    "a round": (IoLoop, "_round"),
    "the bell": (IoLoop, "_drain_wakes"),
    "reading results": (IoLoop, "_deliver_results"),
    "ringing": (Wake, "ring"),
    "who sent it": (Connections, "took"),
    "an empty socket": (Connections, "idle"),
    "counting connections": (Connections, "count"),
    "the watch over connections": (Connections, "_go_round"),
    "the jobs that wait": (Inbox, "take"),
    "beginning a step": (EngineWorker, "_begin"),
    "the session's step": (SessionHost, "begin"),
    "a pass": (SessionHost, "advance"),
    "the prediction": (ToyPrediction, "result"),
    "taking a step over": (SessionHost, "took"),
    "settling": (SessionHost, "prefill_ahead"),
    "another job": (EngineWorker, "_control"),
    "its frame": (worker, "describe"),
    "its seed": (SessionHost, "seed"),
    "its step": (SessionHost, "committed_step"),
    "forgetting a session": (SessionHost, "forget"),
    "handing over to the decoder": (Inbox, "rendering"),
    "rendering": (EngineWorker, "_render"),
    "the frames' shape": (SessionHost, "checked"),
    "after rendering": (Inbox, "rendered"),
}


class Planted(Exception):
    """What nobody foresaw; its text would write a line of its own."""


class Plant:
    """Raises at the next ``left`` calls of a function; then the function is itself again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.left = 0
        self.raised = 0
        real = getattr(owner, name)

        def planted(*args: Any, **named: Any) -> Any:
            if self.left > 0:
                self.left -= 1
                self.raised += 1
                raise Planted("unforeseen\nforged line")
            return real(*args, **named)

        monkeypatch.setattr(owner, name, planted)


@pytest.fixture
def served(runtime: ToyModel) -> Iterator[tuple[StreamServer, RawClient, RawClient]]:
    """A server, a client that will be hit, and one that will not."""
    with StreamServer(runtime, bind="tcp://127.0.0.1:0", lease_s=LEASE_S) as server:
        victim, bystander = RawClient(server.endpoint), RawClient(server.endpoint)
        yield server, victim, bystander
        victim.close()
        bystander.close()


def reset(sid: str) -> tuple[dict[str, Any], bytes]:
    return {"t": "reset", "sid": sid, "arrays": [frames_spec(FRAMES)]}, FRAMES.tobytes()


def step(raw: RawClient, sid: str, number: int) -> dict[str, Any]:
    return raw.ask({"t": "step", "sid": sid, "step": number})


def a_session_of(raw: RawClient) -> set[str]:
    """Opens, steps, forks, resets and closes, whatever comes; the types and codes of the replies.

    Each request must get its own reply, one.
    """
    answers = set()

    def ask(header: dict[str, Any], *parts: bytes) -> dict[str, Any]:
        rid = raw.send(header, *parts)
        reply = raw.receive()
        # A header that could not even be read has no rid to repeat.
        assert reply["rid"] in (rid, 0), reply
        answers.add(reply["code"] if reply["t"] == "error" else reply["t"])
        return reply

    opened = ask({"t": "open", "arrays": [frames_spec(FRAMES)]}, FRAMES.tobytes())
    sid = opened.get("sid") or "gone"
    for number in (1, 2):
        ask({"t": "step", "sid": sid, "step": number})
    fork = ask({"t": "fork", "sid": sid})
    ask(*reset(sid))
    ask({"t": "step", "sid": sid, "step": 1})
    ask({"t": "heartbeat", "sid": sid})
    for one in (sid, fork.get("sid") or "gone"):
        ask({"t": "close", "sid": one})
    return answers


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


@pytest.mark.parametrize("times", [1, 2, 7])
@pytest.mark.parametrize("place", PLACES)
def test_server_survives_an_exception_in(place, times, served, runtime, monkeypatch):
    _, victim, bystander = served
    sid = bystander.open(seed=5)
    frames = [step(bystander, sid, 1)["parts"][0]]
    plant = Plant(monkeypatch, *PLACES[place])
    plant.left = times
    answers = a_session_of(victim)
    for _ in range(8):  # until it was raised as often as planned, or never will be
        if not plant.left:
            break
        answers |= a_session_of(victim)
    plant.left = 0
    assert plant.raised, f"nothing calls {place}"
    assert answers <= {
        *("opened", "frames", "closed", "status"),
        *("INTERNAL", "ENGINE_FAILED", "NO_SESSION", "STEP_CONFLICT", "BUSY", "LIMIT"),
    }
    # Nobody else noticed, nothing is left behind, and all is as it was.
    frames += [step(bystander, sid, number)["parts"][0] for number in (2, 3)]
    twin = ToyModel().open_session()
    twin.reset(FRAMES, seed=5)
    expected = [twin.step().image for _ in frames]
    for got, image in zip(frames, expected, strict=True):
        assert np.array_equal(np.frombuffer(got, np.uint8), image.reshape(-1))

    def left_alone() -> bool:
        there = bystander.ask({"t": "heartbeat", "sid": sid})
        return there["t"] == "status" and there["sessions"] == runtime.sessions_open == 1

    wait_until(left_alone, "sessions are left behind")
    assert a_session_of(victim) == {"opened", "frames", "closed", "status"}


# Those that have no handler of their own below the loop.
ESCAPES = {
    "a request": "request",
    "a result": "result",
    "sending a reply": "delivery",
    "leases": "tick",
    "a round": "io",
    "beginning a step": "engine",
    "rendering": "decoder",
}


@pytest.mark.parametrize(("place", "where"), ESCAPES.items(), ids=ESCAPES)
def test_what_escapes_is_counted_and_logged_with_its_ids(place, where, served, monkeypatch, caplog):
    server, victim, _ = served
    sid = victim.open()
    victim.ask({"t": "hello"})  # so that nothing of the opening is left to be done
    plant = Plant(monkeypatch, *PLACES[place])
    plant.left = 1
    step(victim, sid, 1)
    wait_until(lambda: plant.left == 0, "nothing was raised")
    wait_until(lambda: where in server.counters.internal.by_place(), "nothing was counted")
    assert server.counters.internal.by_place() == {where: 1}
    (record,) = [r for r in caplog.records if "escaped from" in r.getMessage()]
    assert record.levelno == logging.ERROR and record.exc_info[0] is Planted
    if where not in ("tick", "io"):
        assert (record.sid, record.rid) == (sid, victim.rid)


def test_a_failed_request_for_a_session_ends_it_and_says_so(served, monkeypatch):
    _, victim, _ = served
    sid = victim.open()
    plant = Plant(monkeypatch, SessionRecord, "accept")
    plant.left = 1
    reply = step(victim, sid, 1)
    assert (reply["t"], reply["code"], reply["retryable"]) == ("error", "INTERNAL", False)
    assert reply["sid"] == sid and "ended" in reply["message"]
    assert "forged" not in reply["message"]
    assert step(victim, sid, 1)["code"] == "NO_SESSION"


def test_everybody_who_waits_for_a_session_that_failed_is_told(serve, runtime, monkeypatch):
    """Several wait for one step; its end fails."""
    server, held = serve(), threading.Event()
    runtime.hooks.predict = lambda session, number: held.wait(TIMEOUT_S)
    raws = [RawClient(server.endpoint) for _ in range(3)]
    sid = raws[0].open()
    for raw in raws:
        raw.send({"t": "step", "sid": sid, "step": 1})
        raw.send({"t": "hello"})
        assert raw.receive()["t"] == "hello_ok"
    Plant(monkeypatch, dispatch, "reply_to").left = 1
    held.set()
    for raw in raws:
        assert raw.receive()["code"] == "INTERNAL"
        raw.close()
    wait_until(lambda: runtime.sessions_open == 0, "the engine still has the session")


def test_a_python_client_meets_its_typed_error(server, client, monkeypatch):
    session = client.open(FRAMES)
    Plant(monkeypatch, Dispatcher, "on_result").left = 1
    with pytest.raises(Exception, match="INTERNAL") as caught:
        session.step()
    assert caught.value.code == "INTERNAL" and not caught.value.retryable
    with client.open(FRAMES) as another:
        assert another.step().step == 1


def test_an_observer_that_raises_costs_nobody_anything(serve, runtime):
    def broken(exchange: object) -> None:
        raise Planted("an observer")

    server = serve(observer=broken)
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        with client.open(FRAMES) as session:
            assert session.step().step == 1
        client.status()
    assert server.counters.internal.by_place() == {"observer": 3}


def test_a_door_that_fails_lets_nobody_in_and_then_again(server, monkeypatch):
    plant = Plant(monkeypatch, Doorkeeper, "_round")
    plant.left = 3
    with StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client:
        assert client.status().sessions == 0
    wait_until(lambda: plant.left == 0, "nothing was raised")
    assert server.counters.internal.by_place() == {"door": 3}


def test_a_loop_that_always_fails_rests_and_stops_all_the_same(serve, monkeypatch):
    server = serve(stop_timeout_s=0.5)
    plant = Plant(monkeypatch, IoLoop, "_round")
    plant.left = 10**9
    time.sleep(1.0)
    assert 5 < plant.raised < 100
    server.stop()


def test_the_log_of_a_loop_that_always_fails_is_bounded(caplog):
    errors = InternalErrors()
    resort = LastResort("loop", errors)
    for _ in range(1000):
        resort.caught(ValueError("again"), "a round")
    assert errors.by_place() == {"loop": 1000}
    assert 10 <= len(caplog.records) <= 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_engine_that_ends_its_thread_ends_the_server_with_a_shutdown_notice(
    serve, runtime, error
):
    """Those are no failures to survive: whoever restarts the server is to know."""
    server = serve(stop_timeout_s=0.2)
    raw = RawClient(server.endpoint)
    sid = raw.open()

    def leave(session: object, number: int) -> None:
        raise error

    runtime.hooks.predict = leave
    raw.send({"t": "step", "sid": sid, "step": 1})
    assert raw.receive()["code"] == "SHUTTING_DOWN"
    raw.close()


def test_serve_forever_says_that_a_thread_of_the_engine_ended(runtime, monkeypatch):
    monkeypatch.setattr(EngineWorker, "alive", False)
    server = StreamServer(runtime, bind="tcp://127.0.0.1:0", stop_timeout_s=0.2)
    with pytest.raises(Unavailable, match="thread ended"):
        server.serve_forever()
