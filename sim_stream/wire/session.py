"""``RemoteSession``: one stream of predicted frames, as its user sees it.

A step may be sent before the previous one's frame was received (``send_step``, ``receive``): then
the server's world model and its video decoder work at the same time. Every step is taken exactly
once, so a step whose reply was lost is simply asked for again.

Knows no sockets; belongs to the thread of its client.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakSet

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.errors import (
    ConnectionLost,
    InvalidInput,
    ProtocolError,
    RemoteError,
    SessionClosed,
)
from sim_stream.wire import checks
from sim_stream.wire.connection import Connection, Received
from sim_stream.wire.engine import Image
from sim_stream.wire.frame import RemoteFrame, remote_frame
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import (
    Close,
    Closed,
    ErrorCode,
    Fork,
    FrameMessage,
    Heartbeat,
    HelloOk,
    Message,
    Opened,
    Reset,
    Status,
    Step,
)
from sim_stream.wire.observe import Observer, SessionRequest, as_client_saw_it

# After these errors the server has no such session any more.
OVER = frozenset({ErrorCode.NO_SESSION, ErrorCode.SHUTTING_DOWN})
_NO_ARRAYS: Arrays = {}


@dataclass
class _Sent:
    """A step in flight."""

    message: Step
    rid: int
    send_ns: int


class RemoteSession:
    """Opened by ``StreamClient.open``; a context manager that closes it.

    ``frame`` is the frame that came with the opening (or the last reset; after ``fork`` the
    parent's last). Methods raise InvalidInput (nothing was sent), RemoteError (the server
    refused), ConnectionLost (no answer; the session may live on) and SessionClosed.
    """

    def __init__(
        self,
        connection: Connection,
        info: HelloOk,
        sid: str,
        frame: RemoteFrame,
        committed_step: int,
        *,
        siblings: WeakSet[RemoteSession],
        observer: Observer | None = None,
    ) -> None:
        self._connection = connection
        self._info = info
        self._in_flight: deque[_Sent] = deque()
        self._next_step = committed_step + 1
        self._latest = frame
        self._closed = False
        self._last: RemoteFrame | None = None
        self.sid = sid
        self.frame = frame
        self._siblings = siblings  # the client tells the server when it leaves them open
        siblings.add(self)
        self._observer = observer

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()  # the error at hand matters more than what closing could raise

    @property
    def in_flight(self) -> int:
        """Steps sent whose frames were not received."""
        return len(self._in_flight)

    def step(
        self,
        action: Action | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> RemoteFrame:
        """Predicts one frame further and waits for the reply.

        After ConnectionLost the step is still in flight: ``receive`` asks for it again.
        """
        if self._in_flight:
            raise InvalidInput("step", f"{self.in_flight} in flight", "none; receive() first")
        self.send_step(action, sim_time_us=sim_time_us, deadline_ms=deadline_ms)
        return self.receive()

    def send_step(
        self,
        action: Action | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> int:
        """Sends a step without waiting; its number.

        ``deadline_ms``: how long it may queue; with jacobi decoding, when its frame must leave.
        """
        self._require_open()
        limit = self._info.limits.max_in_flight
        if self.in_flight >= limit:
            raise InvalidInput("send_step", f"{self.in_flight} in flight", f"{limit} at most")
        message = Step(
            sid=self.sid,
            step=self._next_step,
            action=checks.wire_action(action, self._info),
            sim_time_us=sim_time_us,
            deadline_ms=deadline_ms,
        )
        self._in_flight.append(self._send(message))
        self._next_step += 1
        return message.step

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Whether ``receive`` would return at once; waits for that, up to ``timeout_s``."""
        self._require_open()
        rid = self._in_flight[0].rid if self._in_flight else None
        return rid is not None and self._connection.poll(rid, timeout_s)

    def receive(self) -> RemoteFrame:
        """The reply to the oldest step in flight; asks again when it was lost before."""
        self._require_open()
        if not self._in_flight:
            raise InvalidInput("receive", "no step in flight", "a step; send_step() first")
        sent = self._in_flight[0]
        if not self._connection.expects(sent.rid):  # lost with the connection it was sent on
            sent = self._in_flight[0] = self._send(sent.message)
        try:
            received = self._wait(sent.rid)
        except RemoteError as error:
            if not isinstance(error, ConnectionLost):  # which leaves the step in flight
                self._in_flight.popleft()
                self._settle(error.committed_step)
            raise
        self._in_flight.popleft()
        frame = remote_frame(received, sent.send_ns)
        self._show(sent.message, received, frame)
        self._settle(frame.committed_step)
        self._latest = frame
        return frame

    def reset(
        self,
        frames: Any,
        *,
        seed: int = 0,
        actions: Sequence[Action | None] | None = None,
        text: str | None = None,
        sampling: SamplingConfig | None = None,
        decoding: DecodingConfig | None = None,
    ) -> RemoteFrame:
        """Starts anew from context frames (``StreamClient.open``); steps count from 1 again."""
        self._require_open()
        array = checks.wire_frames(frames, self._info)
        message = Reset(
            sid=self.sid,
            seed=checks.wire_seed(seed),
            text=checks.wire_text(text),
            sampling=checks.wire_sampling(sampling),
            decoding=checks.wire_decoding(decoding),
            actions=checks.wire_actions(actions, len(array), self._info),
        )
        self._forget_steps()
        send_ns = time.monotonic_ns()
        received = self._wait(self._transmit(message, {"frames": array}))
        self.frame = self._latest = remote_frame(received, send_ns)
        self._next_step = self.frame.committed_step + 1
        self._show(message, received, self.frame, array)
        return self.frame

    def fork(self) -> RemoteSession:
        """A second session that continues from here, independent of this one."""
        self._require_open()
        if self._in_flight:
            raise InvalidInput("fork", f"{self.in_flight} steps in flight", "none; receive() first")
        message = Fork(sid=self.sid)
        received = self._wait(self._transmit(message))
        opened = received.message
        if not isinstance(opened, Opened):
            raise ProtocolError("reply", type(opened).__name__, "opened")
        self._show(message, received, None)
        return RemoteSession(
            self._connection,
            self._info,
            opened.sid,
            self._latest,
            opened.committed_step,
            siblings=self._siblings,
            observer=self._observer,
        )

    def status(self) -> Status:
        """The server's progress; asking keeps the session from expiring."""
        self._require_open()
        return request_status(self._connection, self.sid)

    def close(self) -> RemoteFrame | None:
        """Ends the session; the last frame, when the lookahead still held one. Idempotent."""
        if self._closed or self._connection.closed:
            return self._last
        self._closed = True
        self._forget_steps()
        send_ns = time.monotonic_ns()
        message = Close(sid=self.sid)
        received = self._wait(self._transmit(message))
        if isinstance(received.message, Closed) and received.message.frame is not None:
            self._last = remote_frame(received, send_ns)
        self._show(message, received, self._last)
        return self._last

    def abandon(self) -> bool:
        """Tells the server, without waiting, that the session is over; says whether it did."""
        if self._closed or self._connection.closed:
            return False
        self._closed = True
        self._forget_steps()
        return self._connection.send_unanswered(Close(sid=self.sid))

    def _send(self, message: Step) -> _Sent:
        send_ns = time.monotonic_ns()
        return _Sent(message, self._transmit(message), send_ns)

    def _transmit(self, message: Message, arrays: Arrays = _NO_ARRAYS) -> int:
        try:
            return self._connection.send(message, arrays)
        except RemoteError as error:
            self._closed = self._closed or error.code in OVER
            raise

    def _wait(self, rid: int) -> Received:
        try:
            return self._connection.wait(rid)
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
        if not self._in_flight and committed_step >= 0:
            self._next_step = committed_step + 1

    def _forget_steps(self) -> None:
        while self._in_flight:
            self._connection.forget(self._in_flight.popleft().rid)

    def _require_open(self) -> None:
        if self._closed or self._connection.closed:
            raise SessionClosed(f"session {self.sid} is closed")


def request_status(connection: Connection, sid: str) -> Status:
    heartbeat = Heartbeat(sid=sid, client_send_ns=time.monotonic_ns())
    reply = connection.wait(connection.send(heartbeat)).message
    if not isinstance(reply, Status):
        raise ProtocolError("reply", type(reply).__name__, "status")
    return reply
