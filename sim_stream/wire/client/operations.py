"""What a client does, told apart from how it waits: an operation says what to send and wait for.

An operation is a generator; whoever runs it answers ``Send`` with a request id and ``Wait`` with
the reply, and throws what either raised into it. So the blocking and the asyncio client share every
rule. Knows no sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from sim_stream.errors import ConnectionLost, NobodyListens
from sim_stream.wire.client.pending_replies import Received
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import Message

T = TypeVar("T")
# A request that may be repeated waits this part of the whole patience before it is sent again.
ATTEMPT = 1 / 3


@dataclass(frozen=True)
class Send:
    """Answered with the request's id."""

    message: Message
    arrays: Arrays = field(default_factory=dict)
    anew: bool = False


@dataclass(frozen=True)
class Wait:
    """Answered with the ``Received`` reply. ``busy``: a server that says that it has the request
    is waited for longer (``patience``)."""

    rid: int
    timeout_s: float
    busy: bool = True


@dataclass(frozen=True)
class Pause:
    """Answered with nothing, after that time."""

    seconds: float


Operation: TypeAlias = Generator[Send | Wait | Pause, Any, T]


class Blocking(Protocol):
    """The blocking connection."""

    def send(self, message: Message, arrays: Arrays, *, anew: bool) -> int: ...
    def wait(self, rid: int, timeout_s: float, *, busy: bool) -> Received: ...
    def using(self) -> AbstractContextManager[object]: ...


class Awaiting(Protocol):
    """The asyncio connection."""

    async def send(self, message: Message, arrays: Arrays, *, anew: bool) -> int: ...
    async def wait(self, rid: int, timeout_s: float, *, busy: bool) -> Received: ...
    def require_owner(self) -> None: ...


def ask(
    message: Message,
    arrays: Arrays | None = None,
    *,
    timeout_s: float,
    anew: bool = False,
    busy: bool = True,
) -> Operation[Received]:
    """Sends a request, once, and waits for its reply."""
    rid = yield Send(message, arrays or {}, anew)
    received: Received = yield Wait(rid, timeout_s, busy)
    return received


def ask_until_answered(
    message: Message, arrays: Arrays | None = None, *, timeout_s: float, anew: bool = False
) -> Operation[Received]:
    """Sends a request that the server takes once however often it comes, until it is answered.

    Raises ConnectionLost after ``timeout_s`` in all, but for the time in which the server had it.
    """
    give_up_s = time.monotonic() + timeout_s
    while True:
        left_s = give_up_s - time.monotonic()
        attempt_s = min(timeout_s * ATTEMPT, max(left_s, 0.0))
        try:
            return (yield from ask(message, arrays, timeout_s=attempt_s, anew=anew))
        except ConnectionLost as error:
            if isinstance(error, NobodyListens) or time.monotonic() >= give_up_s:
                raise


def run(operation: Operation[T], connection: Blocking) -> T:
    """Runs an operation to its end; raises what it raises, and WrongOwner."""
    with connection.using():
        return _run(operation, connection)


def _run(operation: Operation[T], connection: Blocking) -> T:
    try:
        step = next(operation)
        while True:
            try:
                if isinstance(step, Send):
                    answer: Any = connection.send(step.message, step.arrays, anew=step.anew)
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                    answer = None
                else:
                    answer = connection.wait(step.rid, step.timeout_s, busy=step.busy)
            except BaseException as error:  # Ctrl-C, too: an opening has something to undo
                step = operation.throw(error)
            else:
                step = operation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def run_async(operation: Operation[T], connection: Awaiting) -> T:
    """As ``run``; cancelled, it ends the operation where it stands."""
    connection.require_owner()
    try:
        step = next(operation)
        while True:
            try:
                if isinstance(step, Send):
                    answer: Any = await connection.send(step.message, step.arrays, anew=step.anew)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    answer = None
                else:
                    answer = await connection.wait(step.rid, step.timeout_s, busy=step.busy)
            except BaseException as error:  # cancelled, too: an opening has something to undo
                step = operation.throw(error)
            else:
                step = operation.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
