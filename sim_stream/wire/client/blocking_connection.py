"""One client's connection: sends requests, matches replies to them, knows when to give up.

A DEALER socket and its monitor, which tells when the server refuses this client; one thread at a
time uses them. Whoever lets go of a connection without closing it, or ends the process, leaves no
session at the server: its sids are sent a close. Knows no frames.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import msgspec
import zmq

from sim_stream.errors import RemoteError
from sim_stream.wire import framing
from sim_stream.wire.client import handshakes
from sim_stream.wire.client.handshakes import Handshakes
from sim_stream.wire.client.owner import Owner
from sim_stream.wire.client.patience import BUSY_S, CONNECT_TIMEOUT_S, Patience
from sim_stream.wire.client.pending_replies import (
    LIMITS,
    MAX_REPLY_BYTES,
    READ_AT_ONCE,
    PendingReplies,
    Received,
)
from sim_stream.wire.framing import Arrays
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import Close, HelloOk, Message

REPLIES_QUEUED = 64
# How long the last close messages may take to leave.
CLOSE_LINGER_MS = 200
_NO_ARRAYS: Arrays = {}


class Connection:
    """Connects at once, in the background; ``send`` waits for the server to be there."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float,
        resume_s: float = 0.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        busy_s: float = BUSY_S,
        keys: ClientKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s, self.resume_s = timeout_s, resume_s
        self._connect_timeout_s, self._busy_s = connect_timeout_s, busy_s
        self._begin_s = time.monotonic()
        self._keys = keys
        self._owner = Owner()
        self._mail = PendingReplies()
        self.sids: set[str] = set()
        self._orphans: deque[str] = deque()
        self._told = False
        self._handshakes = Handshakes(with_keys=keys is not None)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._left = weakref.finalize(
            self, _leave, self._context, self._sockets, self.sids, self._orphans, self._owner
        )
        try:
            self._connect()
        except BaseException:
            self._left.detach()
            self._context.destroy(linger=0)
            raise

    @contextmanager
    def using(self) -> Iterator[None]:
        """One call of this client. Raises WrongOwner."""
        with self._owner.using() as first:
            try:
                yield
            finally:
                if first:
                    self._close_orphans()

    def require_owner(self) -> None:
        """Raises WrongOwner."""
        self._owner.require_process()

    @property
    def elsewhere(self) -> bool:
        """Whether this is a fork of the process that made it: there is nothing to close here."""
        return self._owner.elsewhere

    def orphan(self, sid: str) -> None:
        """Nobody has that session any more. Called by finalizers, at any time, in any thread."""
        self._orphans.append(sid)
        with self._owner.if_idle() as idle:
            if idle:
                self._close_orphans()

    def _close_orphans(self) -> None:
        while self._orphans and not self.closed:
            sid = self._orphans.popleft()
            self.sids.discard(sid)
            self.send_unanswered(Close(sid=sid))

    @property
    def closed(self) -> bool:
        return self._socket.closed

    @property
    def info(self) -> HelloOk:
        """What the server says of itself, the last one that was greeted."""
        assert self._mail.info is not None, "a client begins with a hello"
        return self._mail.info

    def close(self) -> None:
        """Ends it and, without waiting, the sessions still open. Idempotent."""
        if not self._socket.closed:
            for sid in [*self.sids]:
                self.send_unanswered(Close(sid=sid))
            self._left.detach()
            linger_ms = CLOSE_LINGER_MS if self._told else 0
            handshakes.close(self._socket, self._monitor, linger_ms=linger_ms)
            self._context.term()

    def send(self, message: Message, arrays: Arrays = _NO_ARRAYS, *, anew: bool = False) -> int:
        """Sends a request; its rid, to ``wait`` for. Raises ConnectionLost, RemoteError.

        ``anew``: whatever server sent its shutdown notice before (``PendingReplies.begin``).
        """
        if self._refused:  # not earlier: what it was refused for may have been mended since
            self._reconnect()
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
        self._told = True
        # A rid of its own: 0 would make its refusal look like the server's shutdown notice.
        return self._transmit(msgspec.structs.replace(message, rid=self._mail.issue()), _NO_ARRAYS)

    def wait(self, rid: int, timeout_s: float, *, busy: bool = True) -> Received:
        """The reply to a request. Raises ConnectionLost, RemoteError.

        ``busy``: a server that says that it has the request is waited for up to ``busy_s``.
        """
        patience = Patience(self._mail, rid, timeout_s, self._busy_s if busy else 0.0)
        self._read_waiting()
        while not self._mail.has(rid):
            self._mail.raise_shutdown_notice()
            if not self._mail.expects(rid):  # it went to a server that is gone
                raise self._handshakes.lost(self.endpoint, self.timeout_s)
            self._raise_absence()
            if patience.left_s() <= 0:
                self._give_up(patience)
            self._poller.poll(max(1, round(patience.pause_s() * 1e3)))
            self._read_waiting()
            if not self._mail.has(rid):
                self._raise_refusal()
                if patience.beat_is_due():
                    self._transmit(self._mail.beat(rid), _NO_ARRAYS)
                patience.tell(self.endpoint)
        return self._mail.take(rid)

    def poll(self, rid: int, timeout_s: float) -> bool:
        """Whether ``wait`` for that reply would return at once; gives it up to ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        self._read_waiting()
        while not self._mail.has(rid) and not self._mail.shutdown_notice:
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

    def _give_up(self, patience: Patience | None = None) -> NoReturn:
        if patience is None:
            lost = self._handshakes.lost(self.endpoint, self.timeout_s)
        else:
            lost = patience.lost(self.endpoint, self.timeout_s, self._handshakes)
        self._reconnect()
        raise lost

    def _raise_absence(self) -> None:
        """Raises NobodyListens: a first server has had its time to appear, and did not."""
        waited_s = time.monotonic() - self._begin_s
        if self._mail.info is None and waited_s >= self._connect_timeout_s:
            self._read_events()
            self._handshakes.raise_absence(self.endpoint, self._connect_timeout_s)

    def _reconnect(self) -> None:
        """Requests still queued must not reach a server that comes later: nobody waits for them."""
        handshakes.close(self._socket, self._monitor, linger_ms=0)
        self._mail.forget_all()
        self._connect()

    def _connect(self) -> None:
        self._socket: zmq.Socket[bytes] = dealer(self._context, self._keys)
        self._monitor: zmq.Socket[bytes] = handshakes.monitor(self._context, self._socket)
        self._handshakes = Handshakes(with_keys=self._keys is not None, before=self._handshakes)
        self._refused = False
        self._sockets[:] = [self._socket, self._monitor]
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        connect(self._socket, self.endpoint)

    def _raise_refusal(self) -> None:
        """libzmq connects no more after a refusal: the next request begins with a new socket."""
        self._read_events()
        try:
            self._handshakes.raise_refusal()
        except RemoteError:
            self._refused = True
            self._mail.forget_all()
            raise

    def _read_events(self) -> None:
        while self._monitor.poll(0):
            self._handshakes.feed(self._monitor.recv_multipart())

    def _transmit(self, message: Message, arrays: Arrays) -> bool:
        """False: the socket takes nothing now. It is full, or its connection has just ended."""
        parts = framing.pack(message, arrays)
        try:
            framing.send(self._socket, parts, flags=zmq.NOBLOCK)
        except zmq.Again:
            return False
        except BaseException:  # Ctrl-C between two parts: what follows would be part of this one
            self._reconnect()
            raise
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


def _leave(
    context: zmq.Context[zmq.Socket[bytes]],
    sockets: list[zmq.Socket[bytes]],
    sids: set[str],
    orphans: deque[str],
    owner: Owner,
) -> None:
    """What ``close`` does, for a connection that nobody closed."""
    with owner.if_idle() as idle:
        if not idle or sockets[0].closed:
            return
        for sid in {*sids, *orphans}:
            with suppress(zmq.ZMQError):
                framing.send(sockets[0], framing.pack(Close(sid=sid)), flags=zmq.NOBLOCK)
        handshakes.close(sockets[0], sockets[1], linger_ms=CLOSE_LINGER_MS)
        context.term()


def dealer(context: Any, keys: ClientKeys | None) -> Any:
    """A client's socket of that context (of zmq or zmq.asyncio), not yet connected."""
    # Not IMMEDIATE: with it libzmq drops what was received but not yet read as soon as the
    # server disconnects, so a server's last frame and its shutdown notice would be lost.
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
