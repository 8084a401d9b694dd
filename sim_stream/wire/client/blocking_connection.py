"""One client's connection: sends requests, matches replies to them, knows when to give up.

A DEALER socket and its monitor, which tells when the server refuses this client; both belong to the
thread that uses them. Knows no sessions and no frames.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

import msgspec
import zmq

from sim_stream.errors import ConnectionLost, RemoteError
from sim_stream.wire import framing
from sim_stream.wire.client import handshakes
from sim_stream.wire.client.handshakes import Handshakes
from sim_stream.wire.client.mailbox import (
    LIMITS,
    MAX_REPLY_BYTES,
    READ_AT_ONCE,
    Mailbox,
    Received,
)
from sim_stream.wire.framing import Arrays
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import HelloOk, Message

REPLIES_QUEUED = 64
_NO_ARRAYS: Arrays = {}


class Connection:
    """Connects at once, in the background; ``send`` waits for the server to be there."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float,
        resume_s: float = 0.0,
        keys: ClientKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s, self.resume_s = timeout_s, resume_s
        self._keys = keys
        self._mail = Mailbox()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._connect()
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise

    @property
    def closed(self) -> bool:
        return self._socket.closed

    @property
    def info(self) -> HelloOk:
        """What the server says of itself, the last one that was greeted."""
        assert self._mail.info is not None, "a client begins with a hello"
        return self._mail.info

    def close(self, *, linger_ms: int = 0) -> None:
        """Idempotent. ``linger_ms``: how long sent messages may take to leave."""
        if not self._socket.closed:
            handshakes.close(self._socket, self._monitor, linger_ms=linger_ms)
            self._context.term()

    def send(self, message: Message, arrays: Arrays = _NO_ARRAYS, *, anew: bool = False) -> int:
        """Sends a request; its rid, to ``wait`` for. Raises ConnectionLost, RemoteError.

        ``anew``: not the business of a server that said farewell (``Mailbox.begin``).
        """
        self._read_waiting()
        self._mail.begin(anew=anew)
        rid = self._mail.issue()
        addressed = msgspec.structs.replace(message, rid=rid)
        deadline_s = time.monotonic() + self.timeout_s
        while not self._transmit(addressed, arrays):
            self._await_room(deadline_s)
        self._mail.expect(rid)
        return rid

    def send_unanswered(self, message: Message) -> bool:
        """Sends a request if that can be done at once, and ignores its reply."""
        # A rid of its own: 0 would make its refusal look like the server's farewell.
        return self._transmit(msgspec.structs.replace(message, rid=self._mail.issue()), _NO_ARRAYS)

    def wait(self, rid: int, timeout_s: float) -> Received:
        """The reply to a request. Raises ConnectionLost, RemoteError."""
        deadline_s = time.monotonic() + timeout_s
        self._read_waiting()
        while not self._mail.has(rid):
            self._mail.raise_farewell()
            if not self._mail.expects(rid):  # it went to a server that is gone
                raise ConnectionLost(self.endpoint, self.timeout_s)
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._give_up()
            patience_s = min(left_s, self._mail.heartbeat_s)
            silent = not self._poller.poll(max(1, round(patience_s * 1e3)))
            if silent and patience_s < left_s:
                self._transmit(self._mail.beat(), _NO_ARRAYS)
            self._read_waiting()
            if not self._mail.has(rid):
                self._raise_refusal()
        return self._mail.take(rid)

    def poll(self, rid: int, timeout_s: float) -> bool:
        """Whether ``wait`` for that reply would return at once; gives it up to ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        self._read_waiting()
        while not self._mail.has(rid) and not self._mail.farewell:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._socket.poll(max(1, round(left_s * 1e3)), zmq.POLLIN)
            self._read_waiting()
        return True

    def forget(self, rid: int) -> None:
        self._mail.forget(rid)

    def was_dropped(self, rid: int) -> bool:
        return self._mail.was_dropped(rid)

    def expects(self, rid: int) -> bool:
        return self._mail.expects(rid)

    def _give_up(self) -> NoReturn:
        lost = self._handshakes.lost(self.endpoint, self.timeout_s)
        self._reconnect()
        raise lost

    def _reconnect(self) -> None:
        """Requests still queued must not reach a server that comes later: nobody waits for them."""
        handshakes.close(self._socket, self._monitor, linger_ms=0)
        self._mail.forget_all()
        self._connect()

    def _connect(self) -> None:
        self._socket: zmq.Socket[bytes] = dealer(self._context, self._keys)
        self._monitor: zmq.Socket[bytes] = handshakes.monitor(self._context, self._socket)
        self._handshakes = Handshakes(with_keys=self._keys is not None)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        connect(self._socket, self.endpoint)

    def _raise_refusal(self) -> None:
        """libzmq connects no more after a refusal: the next request begins with a new socket."""
        while self._monitor.poll(0):
            self._handshakes.feed(self._monitor.recv_multipart())
        try:
            self._handshakes.raise_refusal()
        except RemoteError:
            self._reconnect()
            raise

    def _transmit(self, message: Message, arrays: Arrays) -> bool:
        """False: the socket takes nothing now. It is full, or its connection has just ended."""
        parts = framing.pack(message, arrays)
        try:
            framing.send(self._socket, parts, flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _await_room(self, deadline_s: float) -> None:
        """Returns when sending may succeed. Raises ConnectionLost, RemoteError."""
        self._raise_refusal()
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            self._give_up()
        room = zmq.Poller()
        room.register(self._socket, zmq.POLLOUT)
        room.register(self._monitor, zmq.POLLIN)
        room.poll(max(1, round(left_s * 1e3)))

    def _read_waiting(self) -> None:
        """No more than READ_AT_ONCE: a server that never stops sending must not hold us here."""
        for _ in range(READ_AT_ONCE):
            if not self._socket.poll(0, zmq.POLLIN):
                return
            frames = framing.receive(self._socket, LIMITS, routed=False)
            self._mail.put(framing.buffers(frames), time.monotonic_ns())


def dealer(context: Any, keys: ClientKeys | None) -> Any:
    """A client's socket of that context (of zmq or zmq.asyncio), not yet connected."""
    # Not IMMEDIATE: with it libzmq drops what was received but not yet read as soon as the
    # server disconnects, so a server's last frame and its farewell would be lost.
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.set(zmq.MAXMSGSIZE, MAX_REPLY_BYTES)
    socket.set_hwm(REPLIES_QUEUED)
    if keys is not None:
        keys.secure(socket)
    return socket


def connect(socket: Any, endpoint: str) -> None:
    """In the background. Raises ZMQError."""
    socket.set(zmq.IPV6, int("[" in endpoint))
    socket.connect(endpoint)
