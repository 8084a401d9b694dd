"""What a client's connection remembers: which requests it waits for, and which replies came.

Replies may come in any order; they are kept until somebody takes them. What a server says of itself
is checked before it counts. Shared by the blocking and the asyncio connection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim_stream.errors import ProtocolError, RemoteError
from sim_stream.wire import codec, framing
from sim_stream.wire.framing import AnyArray, Buffer, FramingLimits
from sim_stream.wire.messages import VERSION, Error, ErrorCode, Heartbeat, HelloOk, Reply, Status


def check_greeting(info: HelloOk, *, frame_bytes: int) -> None:
    """``frame_bytes``: the largest chunk that this client would take. Raises ProtocolError."""
    for field, given, holds, allowed in _rules(info, frame_bytes):
        if not holds:
            raise ProtocolError(f"hello_ok.{field}", given, allowed)


def _rules(info: HelloOk, frame_bytes: int) -> Iterator[tuple[str, object, bool, str]]:
    yield "protocol", info.protocol, info.protocol == VERSION, str(VERSION)
    spec = info.spec
    chunk = spec.frame_bytes * spec.frames_per_step
    yield "spec.frame_shape", list(spec.frame_shape), chunk <= frame_bytes, f"{frame_bytes} bytes"
    in_flight = info.limits.max_in_flight
    yield "limits.max_in_flight", in_flight, in_flight > 0, "above 0"
    for name in ("lease_ms", "heartbeat_ms"):
        yield name, getattr(info, name), getattr(info, name) > 0, "above 0"


# Bounds what a server may send before its hello says how large its frames are.
MAX_REPLY_BYTES = 64 * 1024 * 1024
# Until a server says how often it would be asked.
HEARTBEAT_MS = 1000
# However often a server says: no client spins for it, or ever stops asking.
SHORTEST_BEAT_MS, LONGEST_BEAT_MS = 5, 60_000
# Messages that are read before the clock is looked at again.
READ_AT_ONCE = 64
LIMITS = FramingLimits(message_bytes=MAX_REPLY_BYTES)


@dataclass(frozen=True)
class Received:
    """A reply with its arrays and the client's monotonic clock when it came."""

    message: Reply
    arrays: dict[str, AnyArray]
    recv_ns: int


class PendingReplies:
    """Request ids count from 1; a server's shutdown notice concerns all of them.

    ``info``: what the server said last that answered a hello. Another epoch in any reply means
    that the server before is gone, with all requests that it had not answered.
    """

    def __init__(self) -> None:
        self.info: HelloOk | None = None
        self._epoch = ""
        self._last_rid = 0
        self._expected: set[int] = set()
        self._replies: dict[int, Received] = {}
        self._confirmed_s: dict[int, float] = {}
        self._shutdown_notice: Error | None = None
        self._shutdown_notice_told = False

    def begin(self, *, anew: bool) -> None:
        """Before a request. After a server's shutdown notice every request fails at once, but for
        those that begin ``anew`` (with whatever server answers next)."""
        if anew and self._shutdown_notice_told:
            self._shutdown_notice, self._shutdown_notice_told = None, False
        self.raise_shutdown_notice()

    def issue(self) -> int:
        """The id of the request that is about to be sent."""
        self._last_rid += 1
        return self._last_rid

    def expect(self, rid: int) -> None:
        self._expected.add(rid)

    def expects(self, rid: int) -> bool:
        """Whether a reply to this request has come or can still come."""
        return rid in self._expected

    def has(self, rid: int) -> bool:
        return rid in self._replies

    def put(self, parts: Sequence[Buffer], recv_ns: int) -> None:
        """A message that came. Raises ProtocolError."""
        framing.check_sizes(parts, LIMITS)
        message = codec.decode_reply(parts[0])
        arrays = framing.unpack(message.arrays, parts[1:])
        if isinstance(message, HelloOk):
            check_greeting(message, frame_bytes=MAX_REPLY_BYTES)
        if isinstance(message, HelloOk | Status):
            self._meet(message)
        if isinstance(message, Status) and message.pending in self._expected:
            self._confirmed_s[message.pending] = recv_ns / 1e9
        if message.rid in self._expected:
            self._replies[message.rid] = Received(message, arrays, recv_ns)
        elif message.rid == 0 and isinstance(message, Error):
            self._shutdown_notice = message

    def _meet(self, message: HelloOk | Status) -> None:
        if self._epoch not in ("", message.server_epoch):
            self._expected &= {message.rid, *self._replies}
        self._epoch = message.server_epoch
        if isinstance(message, HelloOk):
            self.info = message

    def beat(self, awaiting: int) -> Heartbeat:
        """Asks whether the server is still the same and has that request; nobody waits for the
        answer."""
        return Heartbeat(rid=self.issue(), awaiting=awaiting)

    def confirmed_s(self, rid: int) -> float:
        """When the server last said that it has that request; minus infinity: never."""
        return self._confirmed_s.get(rid, -math.inf)

    @property
    def heartbeat_s(self) -> float:
        asked_ms = HEARTBEAT_MS if self.info is None else self.info.heartbeat_ms
        return min(max(asked_ms, SHORTEST_BEAT_MS), LONGEST_BEAT_MS) / 1e3

    def take(self, rid: int) -> Received:
        """A reply that is there. Raises RemoteError where it is an error."""
        received = self._replies[rid]
        self.forget(rid)
        if isinstance(received.message, Error):
            raise remote_error(received.message)
        return received

    def was_dropped(self, rid: int) -> bool:
        """Whether the reply is there and says that a newer step took that one's place."""
        received = self._replies.get(rid)
        if received is None or not isinstance(received.message, Error):
            return False
        return received.message.code is ErrorCode.DROPPED

    def forget(self, rid: int) -> None:
        """The reply to this request, come or not, is of no interest any more."""
        self._expected.discard(rid)
        self._replies.pop(rid, None)
        self._confirmed_s.pop(rid, None)

    def forget_all(self) -> None:
        self._expected.clear()
        self._replies.clear()
        self._confirmed_s.clear()

    @property
    def shutdown_notice(self) -> bool:
        return self._shutdown_notice is not None

    def raise_shutdown_notice(self) -> None:
        if self._shutdown_notice is not None:
            self._shutdown_notice_told = True
            raise remote_error(self._shutdown_notice)


def remote_error(error: Error) -> RemoteError:
    return RemoteError(
        error.code.value,
        error.message,
        retryable=error.retryable,
        committed_step=error.committed_step,
    )
