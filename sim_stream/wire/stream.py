"""``Stream``: one session's state on the client's side, and every operation on it.

A step may be sent before the previous one's frame was received (``send_step``, ``receive``): then
the server's world model and its video decoder work at the same time. Every step is taken exactly
once, so a step whose reply was lost is simply asked for again.

The operations (``operations``) are what ``RemoteSession`` runs blocking and ``AsyncRemoteSession``
awaits. Knows no sockets.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.errors import (
    ConnectionLost,
    InvalidInput,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from sim_stream.wire import checks, comeback
from sim_stream.wire.engine import Image
from sim_stream.wire.frame import RemoteFrame, remote_frame
from sim_stream.wire.framing import Arrays
from sim_stream.wire.mailbox import Received
from sim_stream.wire.messages import (
    Close,
    Closed,
    ErrorCode,
    Fork,
    FrameMessage,
    Heartbeat,
    Hello,
    HelloOk,
    Message,
    Open,
    Opened,
    Reset,
    Status,
    Step,
)
from sim_stream.wire.observe import Observer, SessionRequest, as_client_saw_it
from sim_stream.wire.operations import (
    ATTEMPT,
    Operation,
    Send,
    Wait,
    ask,
    ask_until_answered,
)
from sim_stream.wire.step_log import StepLog

T = TypeVar("T")
# After these errors the server has no such session any more.
# A realtime session's steps are answered at once or soon; more without an answer is a server gone.
UNANSWERED = 64
OVER = frozenset({ErrorCode.NO_SESSION, ErrorCode.SHUTTING_DOWN})


class Link(Protocol):
    """What a stream asks of its connection without waiting."""

    timeout_s: float
    resume_s: float

    @property
    def info(self) -> HelloOk: ...
    @property
    def closed(self) -> bool: ...
    def expects(self, rid: int) -> bool: ...
    def forget(self, rid: int) -> None: ...
    def was_dropped(self, rid: int) -> bool: ...
    def send_unanswered(self, message: Message) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a session starts from, as ``StreamClient.open`` describes it; unchecked."""

    frames: Any
    seed: int = 0
    actions: Sequence[Action | None] | None = None
    text: str | None = None
    sampling: SamplingConfig | None = None
    decoding: DecodingConfig | None = None

    def fields(self, info: HelloOk) -> tuple[Image, dict[str, Any]]:
        """The frames, and the fields of the message. Raises InvalidInput."""
        array = checks.wire_frames(self.frames, info)
        return array, {
            "seed": checks.wire_seed(self.seed),
            "text": checks.wire_text(self.text),
            "sampling": checks.wire_sampling(self.sampling),
            "decoding": checks.wire_decoding(self.decoding),
            "actions": checks.wire_actions(self.actions, len(array), info),
        }


@dataclass
class _Sent:
    """A step in flight. ``again``: it was sent before."""

    message: Step
    rid: int
    send_ns: int
    again: bool = False


class Stream:
    """``frame`` came with the opening, the last reset, or is the parent's last after a fork."""

    def __init__(
        self,
        link: Link,
        observer: Observer | None,
        opened: Opened,
        frame: RemoteFrame,
        mode: str,
    ) -> None:
        self.sid = opened.sid
        self.frame = frame
        self.in_flight: deque[_Sent] = deque()
        self._link, self._info, self._observer = link, link.info, observer
        self._mode = mode
        self._next_step = opened.committed_step + 1
        self._token = opened.resume_token if link.resume_s > 0 else ""
        self._log = StepLog(self._info.resume_steps, since=opened.committed_step)
        self._latest = frame
        self._closed = False
        self._last: RemoteFrame | None = None

    def step(
        self, action: Action | None, sim_time_us: int | None, deadline_ms: int | None
    ) -> Operation[RemoteFrame]:
        if self.in_flight:
            raise InvalidInput("step", f"{len(self.in_flight)} in flight", "none; receive() first")
        yield from self.send_step(action, sim_time_us, deadline_ms)
        return (yield from self.receive())

    def send_step(
        self, action: Action | None, sim_time_us: int | None, deadline_ms: int | None
    ) -> Operation[int]:
        self.require_open()
        self.shed()
        lockstep = self._mode == "lockstep"
        limit = self._info.limits.max_in_flight if lockstep else UNANSWERED
        if len(self.in_flight) >= limit:
            raise InvalidInput("send_step", f"{len(self.in_flight)} in flight", f"{limit} at most")
        message = Step(
            sid=self.sid,
            step=self._next_step,
            action=checks.wire_action(action, self._info),
            sim_time_us=sim_time_us,
            deadline_ms=deadline_ms,
        )
        sent = yield from self._watched(lambda: self._send(message))
        self.in_flight.append(sent)
        self._next_step += 1
        return message.step

    def shed(self) -> bool:
        """Forgets steps in flight that are known to have given way to newer ones."""
        waiting: deque[_Sent] = deque()
        for sent in self.in_flight:
            if self._link.was_dropped(sent.rid):
                self._link.forget(sent.rid)
            else:
                waiting.append(sent)
        known = len(waiting) < len(self.in_flight)
        self.in_flight = waiting
        return known

    def receive(self) -> Operation[RemoteFrame]:
        """In realtime that of the oldest step that was taken; the newest always is."""
        while True:
            try:
                return (yield from self._receive())
            except RemoteError as error:
                if error.code != ErrorCode.DROPPED or not self.in_flight:
                    raise

    def _receive(self) -> Operation[RemoteFrame]:
        self.require_open()
        if not self.in_flight:
            raise InvalidInput("receive", "no step in flight", "a step; send_step() first")
        try:
            received = yield from self._watched(self._first_reply)
        except RemoteError as error:
            if not self._still_in_flight(error):
                self.in_flight.popleft()
                self._settle(error.committed_step)
            raise
        sent = self.in_flight.popleft()
        frame = remote_frame(received, sent.send_ns)
        self._show(sent.message, received, frame)
        self._settle(frame.committed_step)
        self._log.add(sent.message)
        self._latest = frame
        return frame

    def reset(self, start: Start) -> Operation[RemoteFrame]:
        self.require_open()
        array, fields = start.fields(self._info)
        message = Reset(sid=self.sid, **fields)
        self._forget_steps()
        send_ns = time.monotonic_ns()
        timeout_s = self._link.timeout_s
        received = yield from self._watched(
            lambda: ask(message, {"frames": array}, timeout_s=timeout_s), catch_up=False
        )
        self.frame = self._latest = remote_frame(received, send_ns)
        self._next_step = self.frame.committed_step + 1
        self._log.restart(self.frame.committed_step)
        self._show(message, received, self.frame, array)
        return self.frame

    def fork(self) -> Operation[Stream]:
        self.require_open()
        if self.in_flight:
            raise InvalidInput(
                "fork", f"{len(self.in_flight)} steps in flight", "none; receive() first"
            )
        message = Fork(sid=self.sid, open_key=new_key())
        received = yield from self._watched(lambda: self._ask(message))
        self._show(message, received, None)
        return Stream(self._link, self._observer, as_opened(received), self._latest, self._mode)

    def status(self) -> Operation[Status]:
        self.require_open()
        return (yield from self._watched(lambda: request_status(self._link, self.sid)))

    def close(self) -> Operation[RemoteFrame | None]:
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
                return None  # over all the same
            raise
        if isinstance(received.message, Closed) and received.message.frame is not None:
            self._last = remote_frame(received, send_ns)
        self._show(message, received, self._last)
        return self._last

    def abandon(self) -> bool:
        """Tells the server, without waiting, that the session is over; says whether it did."""
        if self._closed or self._link.closed:
            return False
        self._closed = True
        self._forget_steps()
        return self._link.send_unanswered(Close(sid=self.sid))

    def require_open(self) -> None:
        if self._closed or self._link.closed:
            raise SessionClosed(f"session {self.sid} is closed")

    def _ask(self, message: Fork | Close) -> Operation[Received]:
        return ask_until_answered(message, timeout_s=self._link.timeout_s)

    def _close(self, message: Close) -> Operation[Received]:
        """A server that does not know the session may still have its recording, and so its last
        frame."""
        received = yield from self._ask(message)
        closed = received.message
        if self._token and isinstance(closed, Closed) and closed.committed_step < 0:
            raise RemoteError(
                ErrorCode.NO_SESSION, "it is not there", retryable=False, committed_step=-1
            )
        return received

    def _send(self, message: Step, *, again: bool = False) -> Operation[_Sent]:
        send_ns = time.monotonic_ns()
        rid: int = yield Send(message)
        return _Sent(message, rid, send_ns, again)

    def _send_lost(self) -> Operation[None]:
        """Steps that were lost with the connection they were sent on, in their order."""
        for index, sent in enumerate(self.in_flight):
            if not self._link.expects(sent.rid):
                self.in_flight[index] = yield from self._send(sent.message, again=True)

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

    def _watched(
        self, attempt: Callable[[], Operation[T]], *, catch_up: bool = True
    ) -> Operation[T]:
        """Some refusals mean that the session is over, unless it can be resumed: then the attempt
        is made again."""
        give_up_s: float | None = None
        while True:
            try:
                return (yield from attempt())
            except RemoteError as error:
                if give_up_s is None:
                    give_up_s = time.monotonic() + self._link.resume_s
                if not (yield from self._came_back(error, give_up_s, catch_up=catch_up)):
                    self._closed = self._closed or error.code in OVER
                    raise

    def _came_back(
        self, error: RemoteError, give_up_s: float, *, catch_up: bool
    ) -> Operation[bool]:
        """Brings the session back from its recording, if the server it was on is gone.

        Raises RemoteError when that is in vain.
        """
        while self._token and error.code in comeback.LOST and time.monotonic() < give_up_s:
            try:
                there = yield from comeback.find_server(give_up_s)
                if isinstance(error, ConnectionLost) and self._same_server(there):
                    return False
                yield from self._resume(there, give_up_s, catch_up=catch_up)
            except RemoteError as again:
                if again.code not in comeback.LOST or not self._token:
                    self._closed = True
                    raise
                error = again
            else:
                return True
        return False

    def _same_server(self, there: HelloOk) -> bool:
        return there.server_epoch == self._info.server_epoch

    def _resume(self, there: HelloOk, give_up_s: float, *, catch_up: bool) -> Operation[None]:
        """What the recording lacks is taken again, what was in flight is sent again."""
        try:
            opened = yield from comeback.resume(self._token, self._link.timeout_s, give_up_s)
            last_sent = self._next_step - 1
            missing = self._log.after(opened.committed_step, last_sent) if catch_up else []
        except RemoteError as error:
            if error.code not in comeback.COMING:
                self._token = ""  # never again
            raise
        self._info = there
        for step in missing:
            yield from ask_until_answered(step, timeout_s=self._link.timeout_s)
        for sent in self.in_flight:
            self._link.forget(sent.rid)
        yield from self._send_lost()

    def _show(
        self,
        request: SessionRequest,
        received: Received,
        frame: RemoteFrame | None,
        frames: Image | None = None,
    ) -> None:
        if self._observer is None:
            return
        reply = received.message
        assert isinstance(reply, Opened | FrameMessage | Closed)
        self._observer(as_client_saw_it(self._info, request, reply, frame, frames))

    def _settle(self, committed_step: int) -> None:
        """After a refusal the next step is the server's next; those in flight fail likewise."""
        if self._mode == "lockstep" and not self.in_flight and committed_step >= 0:
            self._next_step = committed_step + 1

    def _forget_steps(self) -> None:
        while self.in_flight:
            self._link.forget(self.in_flight.popleft().rid)


def new_key() -> str:
    """For an open or a fork of one's own: nobody else will ever come up with it."""
    return secrets.token_hex(16)


def say_hello(link: Link) -> Operation[HelloOk]:
    reply = (yield from ask_until_answered(Hello(), timeout_s=link.timeout_s)).message
    if not isinstance(reply, HelloOk):
        raise ProtocolError("reply", type(reply).__name__, "hello_ok")
    return reply


def open_stream(
    link: Link,
    observer: Observer | None,
    start: Start,
    lookahead: int | None,
    record: bool | None,
    mode: str,
) -> Operation[Stream]:
    if link.closed:
        raise SessionClosed("the client is closed")
    array, fields = start.fields(link.info)
    message = Open(
        **fields,
        lookahead=checks.wire_lookahead(lookahead),
        open_key=new_key(),
        record=checks.wire_record(record),
        mode=checks.wire_mode(mode),
    )
    send_ns = time.monotonic_ns()
    arrays: Arrays = {"frames": array}
    received = yield from ask_until_answered(message, arrays, timeout_s=link.timeout_s, anew=True)
    opened, frame = as_opened(received), remote_frame(received, send_ns)
    if observer is not None:
        observer(as_client_saw_it(link.info, message, opened, frame, array))
    return Stream(link, observer, opened, frame, mode)


def request_status(link: Link, sid: str) -> Operation[Status]:
    heartbeat = Heartbeat(sid=sid, client_send_ns=time.monotonic_ns())
    reply = (yield from ask_until_answered(heartbeat, timeout_s=link.timeout_s)).message
    if not isinstance(reply, Status):
        raise ProtocolError("reply", type(reply).__name__, "status")
    return reply


def as_opened(received: Received) -> Opened:
    opened = received.message
    if not isinstance(opened, Opened):
        raise ProtocolError("reply", type(opened).__name__, "opened")
    return opened
