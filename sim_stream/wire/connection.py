"""One client's connection: sends requests, matches replies to them, knows when to give up.

A DEALER socket that belongs to the thread that uses it. Replies may come in any order; they are
kept until somebody waits for them. Knows no sessions and no frames.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import zmq

from sim_stream.errors import ConnectionLost, RemoteError
from sim_stream.wire import codec, framing
from sim_stream.wire.framing import AnyArray, Arrays, FramingLimits
from sim_stream.wire.messages import Error, Message, Reply

# Bounds what a server may send before its hello says how large its frames are.
MAX_REPLY_BYTES = 64 * 1024 * 1024
REPLIES_QUEUED = 64
_NO_ARRAYS: Arrays = {}


@dataclass(frozen=True)
class Received:
    """A reply with its arrays and the client's monotonic clock when it came."""

    message: Reply
    arrays: dict[str, AnyArray]
    recv_ns: int


class Connection:
    """Connects at once, in the background; ``send`` waits for the server to be there."""

    def __init__(self, endpoint: str, *, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._limits = FramingLimits(message_bytes=MAX_REPLY_BYTES)
        self._next_rid = 1
        self._expected: set[int] = set()
        self._replies: dict[int, Received] = {}
        self._farewell: Error | None = None
        self._farewell_told = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._socket = self._connect()
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def close(self, *, linger_ms: int = 0) -> None:
        """Idempotent. ``linger_ms``: how long sent messages may take to leave."""
        if not self._socket.closed:
            self._socket.close(linger=linger_ms)
            self._context.term()

    def send(self, message: Message, arrays: Arrays = _NO_ARRAYS, *, anew: bool = False) -> int:
        """Sends a request; its rid, to ``wait`` for. Raises ConnectionLost, RemoteError.

        Once a server said farewell every request fails at once, but for those that begin ``anew``
        (with whatever server answers next).
        """
        self._read_waiting()
        if anew and self._farewell_told:
            self._farewell, self._farewell_told = None, False
        self._raise_farewell()
        if not self._socket.poll(round(self.timeout_s * 1e3), zmq.POLLOUT):
            raise ConnectionLost(self.endpoint, self.timeout_s)
        rid = self._take_rid()
        self._transmit(msgspec.structs.replace(message, rid=rid), arrays)
        self._expected.add(rid)
        return rid

    def send_unanswered(self, message: Message) -> bool:
        """Sends a request if that can be done at once, and ignores its reply."""
        if not self._socket.poll(0, zmq.POLLOUT):
            return False
        # A rid of its own: 0 would make its refusal look like the server's farewell.
        self._transmit(msgspec.structs.replace(message, rid=self._take_rid()), _NO_ARRAYS)
        return True

    def wait(self, rid: int) -> Received:
        """The reply to a request. Raises ConnectionLost, RemoteError."""
        deadline_s = time.monotonic() + self.timeout_s
        self._read_waiting()
        while rid not in self._replies:
            self._raise_farewell()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._reconnect()
                raise ConnectionLost(self.endpoint, self.timeout_s)
            self._socket.poll(max(1, round(left_s * 1e3)), zmq.POLLIN)
            self._read_waiting()
        received = self._replies[rid]
        self.forget(rid)
        if isinstance(received.message, Error):
            raise remote_error(received.message)
        return received

    def poll(self, rid: int, timeout_s: float) -> bool:
        """Whether ``wait`` for that reply would return at once; gives it up to ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        self._read_waiting()
        while rid not in self._replies and self._farewell is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._socket.poll(max(1, round(left_s * 1e3)), zmq.POLLIN)
            self._read_waiting()
        return True

    def forget(self, rid: int) -> None:
        """The reply to this request, come or not, is of no interest any more."""
        self._expected.discard(rid)
        self._replies.pop(rid, None)

    def expects(self, rid: int) -> bool:
        """Whether a reply to this request has come or can still come."""
        return rid in self._expected

    def _take_rid(self) -> int:
        self._next_rid += 1
        return self._next_rid - 1

    def _connect(self) -> zmq.Socket[bytes]:
        # Not IMMEDIATE: with it libzmq drops what was received but not yet read as soon as the
        # server disconnects, so a server's last frame and its farewell would be lost.
        dealer = self._context.socket(zmq.DEALER)
        dealer.linger = 0
        dealer.set(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
        dealer.set(zmq.IPV6, int("[" in self.endpoint))
        dealer.set_hwm(REPLIES_QUEUED)
        dealer.connect(self.endpoint)
        return dealer

    def _reconnect(self) -> None:
        """Requests still queued must not reach a server that comes later: nobody waits for them."""
        self._socket.close(linger=0)
        self._expected.clear()
        self._replies.clear()
        self._socket = self._connect()

    def _transmit(self, message: Message, arrays: Arrays) -> None:
        parts = framing.pack(message, arrays)
        try:
            framing.send(self._socket, parts, flags=zmq.NOBLOCK)
        except zmq.Again as error:  # the server left between the poll and here
            raise ConnectionLost(self.endpoint, self.timeout_s) from error

    def _read_waiting(self) -> None:
        while self._socket.poll(0, zmq.POLLIN):
            parts = framing.receive(self._socket, self._limits, routed=False)
            recv_ns = time.monotonic_ns()
            framing.check_sizes(parts, self._limits)
            message = codec.decode_reply(parts[0])
            arrays = framing.unpack(message.arrays, parts[1:])
            if message.rid in self._expected:
                self._replies[message.rid] = Received(message, arrays, recv_ns)
            elif message.rid == 0 and isinstance(message, Error):
                self._farewell = message

    def _raise_farewell(self) -> None:
        if self._farewell is not None:
            self._farewell_told = True
            raise remote_error(self._farewell)


def remote_error(error: Error) -> RemoteError:
    return RemoteError(
        error.code.value,
        error.message,
        retryable=error.retryable,
        committed_step=error.committed_step,
    )
