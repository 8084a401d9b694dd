"""How a client gets its session back when the server was restarted.

A server writes its recordings after its replies. When it dies, the last steps that a client saw may
be missing; a client that remembers them takes them again. Operations (``operations``), for the
blocking and the asyncio client alike.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from sim_stream.errors import ConnectionLost, ProtocolError, RemoteError
from sim_stream.wire.client.link import Link
from sim_stream.wire.client.operations import Operation, Pause, ask, ask_until_answered
from sim_stream.wire.client.pending_replies import Received
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import (
    ErrorCode,
    Heartbeat,
    Hello,
    HelloOk,
    Message,
    Opened,
    Resume,
    Status,
    Step,
)

# However many a server asks for: some megabytes, and 64 times what this one does.
MOST_STEPS = 65_536
# What their arrays may take; beyond it the oldest are forgotten.
MOST_BYTES = 128 * 1024 * 1024


class StepLog:
    """Steps whose replies came, in order; the last ``size`` of them."""

    def __init__(self, size: int, *, since: int) -> None:
        self._size = min(size, MOST_STEPS)
        self._steps: deque[tuple[Step, Arrays]] = deque()
        self._bytes = 0
        self._since = since

    def restart(self, since: int) -> None:
        """The session begins anew, or goes on, from that step."""
        self._steps.clear()
        self._bytes, self._since = 0, since

    def add(self, step: Step, arrays: Arrays) -> None:
        self._steps.append((step, arrays))
        self._bytes += _bytes(arrays)
        while len(self._steps) > self._size or self._bytes > MOST_BYTES:
            forgotten, with_it = self._steps.popleft()
            self._bytes -= _bytes(with_it)
            self._since = forgotten.step

    def after(self, recorded: int) -> list[tuple[Step, Arrays]]:
        """What a session that goes on after ``recorded`` lacks. Raises RemoteError: NO_SESSION,
        where steps between are remembered by nobody."""
        if recorded < self._since:
            raise RemoteError(
                ErrorCode.NO_SESSION,
                f"resume: the recording ends with step {recorded}; this client remembers the steps "
                f"after {self._since}, so what is between is lost",
                retryable=False,
                committed_step=recorded,
            )
        return [(step, arrays) for step, arrays in self._steps if step.step > recorded]


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


T = TypeVar("T")

# After these errors the server may be another one by now, and the session in its recordings.
LOST = frozenset({"CONNECTION_LOST", ErrorCode.SHUTTING_DOWN, ErrorCode.NO_SESSION})
# Errors that pass while a server comes up.
COMING = frozenset({"CONNECTION_LOST", ErrorCode.SHUTTING_DOWN, ErrorCode.BUSY})
HELLO_S = 1.0
PAUSE_S = 0.1


class ResumeState:
    """One session's. ``log``: its last steps; ``resumable``: whether it has a way back at all."""

    def __init__(self, link: Link, opened: Opened) -> None:
        self.log = StepLog(link.info.resume_steps, since=opened.committed_step)
        self._link = link
        self._token = opened.resume_token if link.resume_s > 0 else ""
        self._epoch = link.info.server_epoch
        self.cut = False

    @property
    def resumable(self) -> bool:
        return bool(self._token)

    def with_resume(
        self, attempt: Callable[[], Operation[T]], resend: Callable[[], Operation[None]] | None
    ) -> Operation[T]:
        """Runs it, again after the session had to be resumed. ``resend`` sends what was in flight
        once more; None: the session is to begin anew, so nothing of it is made up for.

        Raises RemoteError; afterwards the session is over if the resume state is ``cut``.
        """
        give_up_s: float | None = None
        while True:
            try:
                return (yield from attempt())
            except RemoteError as error:
                if give_up_s is None:
                    give_up_s = time.monotonic() + self._link.resume_s
                if not (yield from self._came_back(error, give_up_s, resend)):
                    raise

    def _came_back(
        self,
        error: RemoteError,
        give_up_s: float,
        resend: Callable[[], Operation[None]] | None,
    ) -> Operation[bool]:
        """False where there is no way back, or the server never left."""
        while self._token and error.code in LOST and time.monotonic() < give_up_s:
            try:
                there = yield from _find_server(give_up_s)
                same = there.server_epoch == self._epoch
                if same and isinstance(error, ConnectionLost):
                    return False
                yield from self._resume(there, give_up_s, resend)
            except RemoteError as again:
                if again.code not in LOST or self.cut:
                    raise
                error = again
            else:
                return True
        return False

    def _resume(
        self,
        there: HelloOk,
        give_up_s: float,
        resend: Callable[[], Operation[None]] | None,
    ) -> Operation[None]:
        """What the recording lacks is taken again, what was in flight is sent again."""
        timeout_s = self._link.timeout_s
        try:
            reply = (yield from self._rebuilt(give_up_s)).message
            if not isinstance(reply, Opened):
                raise ProtocolError("reply", type(reply).__name__, "opened")
            missing = [] if resend is None else self.log.after(reply.committed_step)
        except RemoteError as error:
            if error.code not in COMING:
                self._token, self.cut = "", True
            raise
        self._epoch = there.server_epoch
        for step, arrays in missing:
            yield from ask_until_answered(step, arrays, timeout_s=timeout_s)
        if resend is not None:
            yield from resend()

    def _rebuilt(self, give_up_s: float) -> Operation[Received]:
        """The reply to ``resume``: a long session takes its server long, so it is waited for as
        long as the engine moves."""
        request, progress = Resume(resume_token=self._token), -1
        while True:
            left_s = max(give_up_s - time.monotonic(), 0.0)
            try:
                timeout_s = min(self._link.timeout_s, left_s)
                return (yield from ask(request, timeout_s=timeout_s, anew=True, busy=False))
            except RemoteError as error:
                if error.code not in COMING:
                    raise
                ask_until_s = max(give_up_s, time.monotonic() + HELLO_S)
                status = (yield from _persevere(Heartbeat(), HELLO_S, ask_until_s)).message
                if isinstance(status, Status) and status.progress != progress:
                    progress = status.progress
                    give_up_s = time.monotonic() + self._link.resume_s
                elif time.monotonic() >= give_up_s:
                    raise
            yield Pause(PAUSE_S)


def _find_server(give_up_s: float) -> Operation[HelloOk]:
    reply = (yield from _persevere(Hello(), HELLO_S, give_up_s)).message
    if not isinstance(reply, HelloOk):
        raise ProtocolError("reply", type(reply).__name__, "hello_ok")
    return reply


def _persevere(message: Message, timeout_s: float, give_up_s: float) -> Operation[Received]:
    """Asks until whoever is there answers, or the monotonic clock says to give up."""
    while True:
        left_s = max(give_up_s - time.monotonic(), 0.0)
        try:
            return (yield from ask(message, timeout_s=min(timeout_s, left_s), anew=True))
        except RemoteError as error:
            if error.code not in COMING or time.monotonic() >= give_up_s:
                raise
        yield Pause(PAUSE_S)
