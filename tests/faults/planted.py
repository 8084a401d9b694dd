"""Exceptions planted in a running server, where none belongs: one session pays, at most.

The server runs in this process, so that they can be planted; its clients do not.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any
from unittest import mock

from sim_stream.wire.server import dispatch, worker
from sim_stream.wire.server.dispatch import Dispatcher
from sim_stream.wire.server.exactly_once import SessionRecord
from sim_stream.wire.server.host import SessionHost
from sim_stream.wire.server.inbox import Inbox
from sim_stream.wire.server.io_loop import IoLoop
from sim_stream.wire.server.server import StreamServer
from sim_stream.wire.server.sessions import Sessions
from sim_stream.wire.server.worker import EngineWorker, Wake
from tests.faults.clients import Bystander, toy_reference
from tests.faults.driver import prompt_of
from tests.faults.processes import require, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient, frames_spec
from tests.wire.toy import SIZE, ToyModel

IN_A_ROW = (1, 2, 5)
REPLY_TIMEOUT_MS = 10_000
VICTIM = 9
# What concerns one session, and raises for the victim's alone; and what concerns all.
OF_A_SESSION: tuple[tuple[Any, str], ...] = (
    *((Dispatcher, "on_request"), (Dispatcher, "_step"), (SessionRecord, "accept")),
    *((Dispatcher, "on_result"), (SessionRecord, "finish"), (Sessions, "complete")),
    *((IoLoop, "_send"), (EngineWorker, "_begin"), (EngineWorker, "_finish")),
    *((EngineWorker, "_control"), (EngineWorker, "_render"), (SessionHost, "took")),
    *((worker, "describe"), (dispatch, "reply_to"), (Inbox, "rendered")),
)
OF_ALL: tuple[tuple[Any, str], ...] = (
    *(
        (IoLoop, "_round"),
        (IoLoop, "_drain_wakes"),
        (Dispatcher, "release"),
        (Dispatcher, "expire"),
    ),
    *((Inbox, "take"), (Wake, "ring")),
)


class Planted(Exception):
    """Nobody foresaw it."""


class Plant:
    """Raises at the next ``left`` calls that concern a session (None: at any calls)."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.left = 0
        self.sid: str | None = None

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.left and (self.sid is None or any(_concerns(arg, self.sid) for arg in args)):
            self.left -= 1
            raise Planted
        return self._real(*args, **named)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self if instance is None else lambda *a, **named: self(instance, *a, **named)


def _concerns(value: Any, sid: str) -> bool:
    if isinstance(value, str):
        return value == sid
    if isinstance(value, list):
        return any(sid.encode() in bytes(part) for part in value[:1])
    inner = ("job", "request", "packet", "message")
    return getattr(value, "sid", None) == sid or any(
        _concerns(getattr(value, name), sid) for name in inner if hasattr(value, name)
    )


def run(stage: Stage) -> Figures:
    logging.disable(logging.CRITICAL)  # some hundred tracebacks, all of them meant
    stage.callback(logging.disable, logging.NOTSET)
    runtime = ToyModel()
    server = stage.start(StreamServer(runtime, bind="tcp://127.0.0.1:0", max_sessions=8))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    answers: Counter[str] = Counter()
    planted = 0
    for owner, name in (*OF_A_SESSION, *OF_ALL):
        plant = Plant(getattr(owner, name))
        with mock.patch.object(owner, name, plant):
            for times in IN_A_ROW:
                whose = (owner, name) in OF_A_SESSION
                answers += harm(raw, plant, times, of_a_session=whose)
                planted += times - plant.left
                plant.left = 0
    wait_until("the victims' sessions have ended", lambda: runtime.sessions_open == 1, timeout_s=10)
    counted = server.counters.internal.by_place()
    require(sum(counted.values()) > 0, "nothing was counted")
    require(set(harm(raw, Plant(None), 0)) == {"opened", "frames", "closed"}, "not as it was")
    bystander.wait_for(bystander.step + 20)
    return {
        "planted": f"{planted} at {len(OF_A_SESSION) + len(OF_ALL)} places, up to {IN_A_ROW[-1]} "
        "in a row",
        "answers": ", ".join(f"{answer} {n}" for answer, n in answers.most_common()),
        "counted": ", ".join(f"{where} {n}" for where, n in sorted(counted.items())),
        **bystander.check_undisturbed(toy_reference),
    }


def harm(raw: RawClient, plant: Plant, times: int, *, of_a_session: bool = True) -> Counter[str]:
    """A session's life with the plant in its way; each request is answered, once."""
    answers: Counter[str] = Counter()
    frames = prompt_of(VICTIM, SIZE)

    def ask(header: dict[str, Any], *parts: bytes) -> dict[str, Any]:
        rid = raw.send(header, *parts)
        require(bool(raw.socket.poll(REPLY_TIMEOUT_MS)), f"{header['t']}: not answered")
        reply = raw.receive()
        require(reply["rid"] == rid, f"{header['t']}: another request's reply, or a second one")
        answers[reply["code"] if reply["t"] == "error" else reply["t"]] += 1
        return reply

    opened = ask({"t": "open", "arrays": [frames_spec(frames)]}, frames.tobytes())
    require(opened["t"] == "opened", f"no session: {opened}")
    sid = opened["sid"]
    plant.sid = sid if of_a_session else None
    plant.left = times
    for step in (1, 2, 3):
        ask({"t": "step", "sid": sid, "step": step})
    ask({"t": "reset", "sid": sid, "arrays": [frames_spec(frames)]}, frames.tobytes())
    for _ in range(max(1, times)):
        ask({"t": "close", "sid": sid})
    return answers


FAULTS = (
    Fault(
        name="exceptions planted in the server",
        holds="each request is answered; one session ends at most, nobody else notices",
        run=run,
    ),
)
