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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.errors import (
    ConnectionLost,
    InvalidInput,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from sim_stream.wire import checks
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

# After these errors the server has no such session any more.
OVER = frozenset({ErrorCode.NO_SESSION, ErrorCode.SHUTTING_DOWN})


class Link(Protocol):
    """What a stream asks of its connection without waiting."""

    timeout_s: float

    @property
    def closed(self) -> bool: ...
    def expects(self, rid: int) -> bool: ...
    def forget(self, rid: int) -> None: ...
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
        info: HelloOk,
        observer: Observer | None,
        *,
        sid: str,
        frame: RemoteFrame,
        committed_step: int,
    ) -> None:
        self.sid = sid
        self.frame = frame
        self.in_flight: deque[_Sent] = deque()
        self._link, self._info, self._observer = link, info, observer
        self._next_step = committed_step + 1
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
        limit = self._info.limits.max_in_flight
        if len(self.in_flight) >= limit:
            raise InvalidInput("send_step", f"{len(self.in_flight)} in flight", f"{limit} at most")
        message = Step(
            sid=self.sid,
            step=self._next_step,
            action=checks.wire_action(action, self._info),
            sim_time_us=sim_time_us,
            deadline_ms=deadline_ms,
        )
        sent = yield from self._send(message)
        self.in_flight.append(sent)
        self._next_step += 1
        return message.step

    def receive(self) -> Operation[RemoteFrame]:
        self.require_open()
        if not self.in_flight:
            raise InvalidInput("receive", "no step in flight", "a step; send_step() first")
        try:
            received = yield from self._watched(self._first_reply())
        except RemoteError as error:
            if not self._still_in_flight(error):
                self.in_flight.popleft()
                self._settle(error.committed_step)
            raise
        sent = self.in_flight.popleft()
        frame = remote_frame(received, sent.send_ns)
        self._show(sent.message, received, frame)
        self._settle(frame.committed_step)
        self._latest = frame
        return frame

    def reset(self, start: Start) -> Operation[RemoteFrame]:
        self.require_open()
        array, fields = start.fields(self._info)
        message = Reset(sid=self.sid, **fields)
        self._forget_steps()
        send_ns = time.monotonic_ns()
        timeout_s = self._link.timeout_s
        received = yield from self._watched(ask(message, {"frames": array}, timeout_s=timeout_s))
        self.frame = self._latest = remote_frame(received, send_ns)
        self._next_step = self.frame.committed_step + 1
        self._show(message, received, self.frame, array)
        return self.frame

    def fork(self) -> Operation[Stream]:
        self.require_open()
        if self.in_flight:
            raise InvalidInput(
                "fork", f"{len(self.in_flight)} steps in flight", "none; receive() first"
            )
        message = Fork(sid=self.sid, open_key=new_key())
        received = yield from self._watched(self._ask(message))
        opened = as_opened(received)
        self._show(message, received, None)
        return Stream(
            self._link,
            self._info,
            self._observer,
            sid=opened.sid,
            frame=self._latest,
            committed_step=opened.committed_step,
        )

    def status(self) -> Operation[Status]:
        self.require_open()
        return (yield from request_status(self._link, self.sid))

    def close(self) -> Operation[RemoteFrame | None]:
        if self._closed or self._link.closed:
            return self._last
        self._closed = True
        self._forget_steps()
        send_ns = time.monotonic_ns()
        message = Close(sid=self.sid)
        received = yield from self._watched(self._ask(message))
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

    def _send(self, message: Step, *, again: bool = False) -> Operation[_Sent]:
        send_ns = time.monotonic_ns()
        rid = yield from self._watched(_sent(message))
        return _Sent(message, rid, send_ns, again)

    def _first_reply(self) -> Operation[Received]:
        """The reply to the oldest step in flight, which is sent again when it does not come."""
        give_up_s = time.monotonic() + self._link.timeout_s
        while True:
            sent = self.in_flight[0]
            try:
                if not self._link.expects(sent.rid):  # lost with the connection it was sent on
                    sent = self.in_flight[0] = yield from self._send(sent.message, again=True)
                return (yield from _reply(sent.rid, self._link.timeout_s * ATTEMPT))
            except ConnectionLost:
                if time.monotonic() >= give_up_s:
                    raise

    def _still_in_flight(self, error: RemoteError) -> bool:
        """A server too busy to say it once more has the step all the same."""
        busy = error.code == ErrorCode.BUSY and self.in_flight[0].again
        return busy or isinstance(error, ConnectionLost)

    def _watched(self, operation: Operation[Any]) -> Operation[Any]:
        """Some refusals mean that the session is over."""
        try:
            return (yield from operation)
        except RemoteError as error:
            self._closed = self._closed or error.code in OVER
            raise

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
        if not self.in_flight and committed_step >= 0:
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
    link: Link, info: HelloOk, observer: Observer | None, start: Start, lookahead: int | None
) -> Operation[Stream]:
    if link.closed:
        raise SessionClosed("the client is closed")
    array, fields = start.fields(info)
    message = Open(**fields, lookahead=checks.wire_lookahead(lookahead), open_key=new_key())
    send_ns = time.monotonic_ns()
    arrays: Arrays = {"frames": array}
    received = yield from ask_until_answered(message, arrays, timeout_s=link.timeout_s, anew=True)
    opened, frame = as_opened(received), remote_frame(received, send_ns)
    if observer is not None:
        observer(as_client_saw_it(info, message, opened, frame, array))
    return Stream(
        link, info, observer, sid=opened.sid, frame=frame, committed_step=opened.committed_step
    )


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


def _sent(message: Message) -> Operation[int]:
    rid: int = yield Send(message)
    return rid


def _reply(rid: int, timeout_s: float) -> Operation[Received]:
    received: Received = yield Wait(rid, timeout_s)
    return received
