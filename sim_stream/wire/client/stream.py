"""``Stream``: one session's state on the client's side, and every operation on it.

A step may be sent before the previous one's frame was received (``send_step``, ``receive``): then
the server's world model and its video decoder work at the same time. Every step is taken exactly
once, so a step whose reply was lost is simply asked for again.

The operations (``operations``) are what ``RemoteSession`` runs blocking and ``AsyncRemoteSession``
awaits. Knows no sockets.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sim_stream.errors import (
    ConnectionLost,
    InvalidInput,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from sim_stream.expects import is_foreign, prompt_warning
from sim_stream.wire.client import arguments
from sim_stream.wire.client.arguments import InputsLike, Opening, Start
from sim_stream.wire.client.frame import RemoteChunk, as_client_saw_it, remote_chunk
from sim_stream.wire.client.link import Link, new_key, request_status
from sim_stream.wire.client.operations import (
    ATTEMPT,
    Operation,
    Send,
    Wait,
    ask,
    ask_until_answered,
)
from sim_stream.wire.client.pending_replies import Received
from sim_stream.wire.client.resume import ResumeState
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import FRAMES, pack_step
from sim_stream.wire.messages import (
    Close,
    Closed,
    ErrorCode,
    Fork,
    FrameMessage,
    Opened,
    Reset,
    Status,
    Step,
)
from sim_stream.wire.observe import Observer, SessionRequest

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", Opened, FrameMessage, Closed, FrameMessage | Closed)
# A realtime session's steps are answered at once or soon; more without an answer is a server gone.
UNANSWERED = 64
# After these errors the server has no such session any more.
OVER = frozenset({ErrorCode.NO_SESSION, ErrorCode.SHUTTING_DOWN})


@dataclass
class _Sent:
    """A step in flight. ``again``: it was sent before."""

    message: Step
    arrays: Arrays
    rid: int
    send_ns: int
    again: bool = False


class Stream:
    """``chunk`` came with the opening, the last reset, or is the parent's last after a fork; None:
    the session began without prompt frames. ``seed``: of its noise from here on.

    ``prompt_psnr_db``: how close the last prompt frame is to its reconstruction; None: not known.
    """

    def __init__(
        self,
        link: Link,
        observer: Observer | None,
        opened: Opened,
        chunk: RemoteChunk | None,
        mode: str,
    ) -> None:
        self.sid = opened.sid
        self.chunk = chunk
        self.seed = opened.seed
        self.prompt_psnr_db = opened.prompt_psnr_db
        self.in_flight: deque[_Sent] = deque()
        self._link, self._observer = link, observer
        self._mode = mode
        self._next_step = opened.committed_step + 1
        self._resume_state = ResumeState(link, opened)
        self._latest = chunk
        self._closed = False
        self._last: RemoteChunk | None = None
        # Whoever lets go of a session without closing it leaves none at the server.
        link.sids.add(opened.sid)
        self._dropped = weakref.finalize(self, link.orphan, opened.sid)

    @property
    def prompt_is_foreign(self) -> bool:
        """Whether it is below what the server's model can go on from."""
        return is_foreign(self.prompt_psnr_db, self._link.info.spec.prompt_psnr_min_db)

    @property
    def prompt_warning(self) -> str:
        """That in words; empty where it is not foreign."""
        spec = self._link.info.spec
        return prompt_warning(self.prompt_psnr_db, spec.prompt_psnr_min_db, spec.prompt_psnr_own_db)

    def warn_of_prompt(self) -> None:
        if self.prompt_is_foreign:
            log.warning("%s", self.prompt_warning, extra={"sid": self.sid})

    def step(
        self, inputs: InputsLike | None, sim_time_us: int | None, deadline_ms: int | None
    ) -> Operation[RemoteChunk]:
        if self.in_flight:
            raise InvalidInput("step", f"{len(self.in_flight)} in flight", "none; receive() first")
        yield from self.send_step(inputs, sim_time_us, deadline_ms)
        return (yield from self.receive())

    def send_step(
        self, inputs: InputsLike | None, sim_time_us: int | None, deadline_ms: int | None
    ) -> Operation[int]:
        self.require_open()
        self.shed()
        lockstep = self._mode == "lockstep"
        limit = self._link.info.limits.max_in_flight if lockstep else UNANSWERED
        if len(self.in_flight) >= limit:
            raise InvalidInput("send_step", f"{len(self.in_flight)} in flight", f"{limit} at most")
        values, arrays = pack_step(arguments.wire_step(self._link.info.spec, inputs))
        message = Step(
            sid=self.sid,
            step=self._next_step,
            inputs=values,
            sim_time_us=arguments.wire_sim_time_us(sim_time_us),
            deadline_ms=arguments.wire_deadline_ms(deadline_ms),
        )
        arrays = {name: array.copy() for name, array in arrays.items()}  # it may be sent again
        sent = yield from self._watched(lambda: self._send(message, arrays))
        self.in_flight.append(sent)
        self._next_step += 1
        return message.step

    def shed(self) -> bool:
        """Forgets steps in flight that are known to be superseded."""
        waiting: deque[_Sent] = deque()
        for sent in self.in_flight:
            if self._link.was_dropped(sent.rid):
                self._link.forget(sent.rid)
            else:
                waiting.append(sent)
        known = len(waiting) < len(self.in_flight)
        self.in_flight = waiting
        return known

    def receive(self) -> Operation[RemoteChunk]:
        """In realtime that of the oldest step that was taken; the newest always is."""
        while True:
            try:
                return (yield from self._receive())
            except RemoteError as error:
                if error.code != ErrorCode.DROPPED or not self.in_flight:
                    raise

    def _receive(self) -> Operation[RemoteChunk]:
        self.require_open()
        if not self.in_flight:
            raise InvalidInput("receive", "no step in flight", "a step; send_step() first")
        try:
            received = yield from self._watched(self._first_reply)
        except RemoteError as error:
            if not self._still_in_flight(error):
                self.in_flight.popleft()
                self._resync(error.committed_step)
            raise
        sent = self.in_flight.popleft()
        chunk = self._chunk(received, sent.send_ns, FrameMessage)
        self._show(sent.message, received, chunk, sent.arrays)
        self._resync(chunk.committed_step)
        self._resume_state.log.add(sent.message, sent.arrays)
        self._latest = chunk
        return chunk

    def reset(self, start: Start) -> Operation[RemoteChunk | None]:
        self.require_open()
        fields, arrays = start.fields(self._link.info.spec)
        message = Reset(sid=self.sid, **fields)
        self._forget_steps()
        send_ns = time.monotonic_ns()
        timeout_s = self._link.timeout_s
        received = yield from self._watched(
            lambda: ask(message, arrays, timeout_s=timeout_s), anew=True
        )
        reply = expected(received, FrameMessage)
        shown = None
        if reply.frames or FRAMES in arrays:
            shown = self._chunk(received, send_ns, FrameMessage)
        self.chunk = self._latest = shown
        self.seed = message.seed
        self._next_step = reply.committed_step + 1
        self._resume_state.log.restart(reply.committed_step)
        self.prompt_psnr_db = reply.prompt_psnr_db
        self.warn_of_prompt()
        self._show(message, received, shown, arrays)
        return shown

    def fork(self, seed: int | None = None) -> Operation[Stream]:
        self.require_open()
        if self.in_flight:
            raise InvalidInput(
                "fork", f"{len(self.in_flight)} steps in flight", "none; receive() first"
            )
        chosen = None if seed is None else arguments.wire_seed(seed)
        message = Fork(sid=self.sid, seed=chosen, idempotency_key=new_key())

        def forked() -> Operation[Stream]:
            received = yield from self._watched(lambda: self._ask(message))
            opened = as_opened(received)
            stream = Stream(self._link, self._observer, opened, self._latest, self._mode)
            self._show(message, received, None)
            return stream

        return (yield from or_withdrawn(self._link, message.idempotency_key, forked()))

    def status(self) -> Operation[Status]:
        self.require_open()
        return (yield from self._watched(lambda: request_status(self._link, self.sid)))

    def close(self) -> Operation[RemoteChunk | None]:
        if self._closed or self._link.closed:
            return self._last
        self._closed = True
        self._forget_steps()
        send_ns = time.monotonic_ns()
        message = Close(sid=self.sid)
        try:
            received = yield from self._watched(lambda: self._close(message))
        except RemoteError as error:
            if error.code == ErrorCode.NO_SESSION:
                self._end()
                return None  # over all the same
            raise
        self._end()
        if expected(received, Closed).frames:
            self._last = self._chunk(received, send_ns, Closed)
        self._show(message, received, self._last)
        return self._last

    def abandon(self) -> bool:
        """Tells the server, without waiting, that the session is over; says whether it did."""
        if self._closed or self._link.closed:
            return False
        self._end()
        self._forget_steps()
        return self._link.send_unanswered(Close(sid=self.sid))

    def _end(self) -> None:
        """The server has no such session any more, or knows that it is over."""
        self._closed = True
        self._dropped.detach()
        self._link.sids.discard(self.sid)

    def require_open(self) -> None:
        """Raises SessionClosed, WrongOwner."""
        self._link.require_owner()
        if self._closed or self._link.closed:
            raise SessionClosed(f"session {self.sid} is closed")

    def _ask(self, message: Fork | Close) -> Operation[Received]:
        return ask_until_answered(message, timeout_s=self._link.timeout_s)

    def _close(self, message: Close) -> Operation[Received]:
        """A server that does not know the session may still have its recording, and so its last
        frame."""
        received = yield from self._ask(message)
        closed = received.message
        if (
            self._resume_state.resumable
            and isinstance(closed, Closed)
            and closed.committed_step < 0
        ):
            raise RemoteError(
                ErrorCode.NO_SESSION, "it is not there", retryable=False, committed_step=-1
            )
        return received

    def _send(self, message: Step, arrays: Arrays, *, again: bool = False) -> Operation[_Sent]:
        send_ns = time.monotonic_ns()
        rid: int = yield Send(message, arrays)
        return _Sent(message, arrays, rid, send_ns, again)

    def _send_lost(self) -> Operation[None]:
        """Steps that were lost with the connection they were sent on, in their order."""
        for index, sent in enumerate(self.in_flight):
            if not self._link.expects(sent.rid):
                self.in_flight[index] = yield from self._send(sent.message, sent.arrays, again=True)

    def _first_reply(self) -> Operation[Received]:
        """The reply to the oldest step in flight, which is sent again when it does not come."""
        give_up_s = time.monotonic() + self._link.timeout_s
        while True:
            try:
                yield from self._send_lost()
                received: Received = yield Wait(
                    self.in_flight[0].rid, self._link.timeout_s * ATTEMPT
                )
                return received
            except ConnectionLost:
                if time.monotonic() >= give_up_s:
                    raise

    def _still_in_flight(self, error: RemoteError) -> bool:
        """A server too busy to say it once more has the step all the same."""
        busy = error.code == ErrorCode.BUSY and self.in_flight[0].again
        return busy or isinstance(error, ConnectionLost)

    def _watched(self, attempt: Callable[[], Operation[T]], *, anew: bool = False) -> Operation[T]:
        """Some refusals mean that the session is over, unless it can be resumed: then the attempt
        is made again. ``anew``: it leaves nothing of what was in flight."""
        try:
            resend = None if anew else self._send_again
            return (yield from self._resume_state.with_resume(attempt, resend))
        except RemoteError as error:
            if error.code in OVER or self._resume_state.cut:
                self._end()
            raise

    def _send_again(self) -> Operation[None]:
        """To the server that has the session now."""
        for sent in self.in_flight:
            self._link.forget(sent.rid)
        yield from self._send_lost()

    def _show(
        self,
        request: SessionRequest,
        received: Received,
        chunk: RemoteChunk | None,
        arrays: Arrays | None = None,
    ) -> None:
        if self._observer is None:
            return
        reply = received.message
        if not isinstance(reply, Opened | FrameMessage | Closed):
            raise ProtocolError("reply", type(reply).__name__, "opened, frame or closed")
        self._observer(as_client_saw_it(self._link.info, request, reply, chunk, arrays))

    def _chunk(
        self, received: Received, send_ns: int, kind: type[FrameMessage | Closed]
    ) -> RemoteChunk:
        expected(received, kind)
        return remote_chunk(received, send_ns, self._link.info.spec)

    def _resync(self, committed_step: int) -> None:
        """After a refusal the next step is the server's next; those in flight fail likewise."""
        if self._mode == "lockstep" and not self.in_flight and committed_step >= 0:
            self._next_step = committed_step + 1

    def _forget_steps(self) -> None:
        while self.in_flight:
            self._link.forget(self.in_flight.popleft().rid)


def open_stream(link: Link, observer: Observer | None, what: Opening) -> Operation[Stream]:
    if link.closed:
        raise SessionClosed("the client is closed")
    message, arrays = what.message(link.info.spec)
    send_ns = time.monotonic_ns()

    def opening() -> Operation[Stream]:
        received = yield from ask_until_answered(
            message, arrays, timeout_s=link.timeout_s, anew=True
        )
        opened = as_opened(received)
        chunk = None
        if opened.frames or FRAMES in arrays:
            chunk = remote_chunk(received, send_ns, link.info.spec)
        stream = Stream(link, observer, opened, chunk, message.mode)
        if observer is not None:
            observer(as_client_saw_it(link.info, message, opened, chunk, arrays))
        stream.warn_of_prompt()
        return stream

    return (yield from or_withdrawn(link, message.idempotency_key, opening()))


def or_withdrawn(link: Link, idempotency_key: str, opening: Operation[T]) -> Operation[T]:
    """Runs it; whoever leaves before its session stands has it closed as soon as it does.

    That may be a timeout, Ctrl-C, a cancelled task, or a reply that makes no sense.
    """
    try:
        return (yield from opening)
    except BaseException as error:
        if isinstance(error, ConnectionLost) or not isinstance(error, RemoteError):
            link.send_unanswered(Close(sid="", idempotency_key=idempotency_key))
        raise


def first_chunk(stream: Stream) -> RemoteChunk:
    """Raises InvalidInput where the session began without prompt frames."""
    if stream.chunk is None:
        raise InvalidInput("frame", "none yet", "a session with prompt frames, or a step first")
    return stream.chunk


def as_opened(received: Received) -> Opened:
    return expected(received, Opened)


def expected(received: Received, kind: type[R]) -> R:
    """The reply, which must be of that kind. Raises ProtocolError."""
    if not isinstance(received.message, kind):
        raise ProtocolError("reply", type(received.message).__name__, kind.__name__)
    return received.message
