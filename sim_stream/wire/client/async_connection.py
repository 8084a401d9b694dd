"""One client's connection under asyncio, like ``blocking_connection``, for many tasks at once.

A zmq.asyncio DEALER socket with its monitor and a task that reads each; all belong to the event
loop they were made in. The tasks hold the sockets, not the connection: whoever lets go of it
without closing it leaves no session at the server. Knows no frames.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from sim_stream.errors import ProtocolError, RemoteError, SessionClosed, WrongOwner
from sim_stream.wire import framing
from sim_stream.wire.client import handshakes
from sim_stream.wire.client.blocking_connection import CLOSE_LINGER_MS, connect, dealer
from sim_stream.wire.client.handshakes import Handshakes
from sim_stream.wire.client.owner import Owner
from sim_stream.wire.client.patience import BUSY_S, CONNECT_TIMEOUT_S, Patience
from sim_stream.wire.client.pending_replies import PendingReplies, Received
from sim_stream.wire.framing import ZERO_COPY_BYTES, Arrays
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import Close, HelloOk, Message

_NO_ARRAYS: Arrays = {}


@dataclass
class _Wires:
    """What has to be taken down at the end, whoever does it; nothing here knows the connection."""

    loop: asyncio.AbstractEventLoop
    context: zmq.asyncio.Context
    owner: Owner = field(default_factory=Owner)
    sids: set[str] = field(default_factory=set)
    sockets: list[zmq.asyncio.Socket] = field(default_factory=list)
    readers: list[asyncio.Task[None]] = field(default_factory=list)


class AsyncConnection:
    """Connects at once, in the background. Needs a running event loop."""

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
        self._mail = PendingReplies()
        self._changed = asyncio.Event()
        self._broken: ProtocolError | None = None
        self._told = False
        self._handshakes = Handshakes(with_keys=keys is not None)
        self._context = zmq.asyncio.Context()
        self._wires = _Wires(asyncio.get_running_loop(), self._context)
        self.sids = self._wires.sids
        self._left = weakref.finalize(self, _leave, self._wires)
        try:
            self._connect()
        except BaseException:
            self._left.detach()
            self._context.destroy(linger=0)
            raise

    def require_owner(self) -> None:
        """Raises WrongOwner."""
        self._wires.owner.require_process()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # none runs in this thread
            here = None
        if here is not self._wires.loop:
            raise WrongOwner(
                f"client: got a use in {'another' if here else 'no'} event loop; allowed: in the "
                "one that it was made in (a client for each)"
            )

    @property
    def elsewhere(self) -> bool:
        """Whether this is a fork of the process that made it: there is nothing to close here."""
        return self._wires.owner.elsewhere

    def orphan(self, sid: str) -> None:
        """Nobody has that session any more. Called by finalizers, at any time, in any thread."""
        if not self._wires.owner.elsewhere:
            with suppress(RuntimeError):  # the loop is closed: ``_leave`` tells the server
                self._wires.loop.call_soon_threadsafe(self._close_orphan, sid)

    def _close_orphan(self, sid: str) -> None:
        if not self.closed and sid in self.sids:
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

    async def close(self) -> None:
        """Ends it and, without waiting, the sessions still open. Idempotent. Whoever waits for a
        reply gets SessionClosed."""
        if not self._socket.closed:
            for sid in [*self.sids]:
                self.send_unanswered(Close(sid=sid))
            self._left.detach()
            # Nothing is awaited before the sockets are closed: a task that is cancelled in here
            # would leave them open.
            linger_ms = CLOSE_LINGER_MS if self._told else 0
            handshakes.close(self._socket, self._monitor, linger_ms=linger_ms)
            self._context.term()
            self._announce()
            await stopped(self._wires.readers)

    async def send(self, message: Message, arrays: Arrays = _NO_ARRAYS, *, anew: bool) -> int:
        """Sends a request; its rid, to ``wait`` for. Raises ConnectionLost, RemoteError."""
        self._require_open()
        if self._refused:  # not earlier: what it was refused for may have been mended since
            await self._reconnect()
        self._raise_refusal()
        self._mail.begin(anew=anew)
        rid = self._mail.issue()
        parts = framing.pack(msgspec.structs.replace(message, rid=rid), arrays)
        copy = all(memoryview(part).nbytes < ZERO_COPY_BYTES for part in parts)
        self._mail.expect(rid)
        async with self._patience(self.timeout_s) as lost:
            await self._sent(self._socket.send_multipart(parts, copy=copy))
        if lost:
            self._mail.forget(rid)
            self._raise_refusal()
            raise self._handshakes.lost(self.endpoint, self.timeout_s)
        return rid

    async def _sent(self, sending: Awaitable[object]) -> None:
        """Waits for it; a refusal that comes meanwhile ends it. Raises RemoteError."""
        task = asyncio.ensure_future(sending)
        try:
            while not task.done():
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if not task.done():
                    self._raise_refusal()
        finally:
            task.cancel()
        await task

    def send_unanswered(self, message: Message) -> bool:
        """Sends a request if that can be done at once, and ignores its reply."""
        self._told = True
        # A rid of its own: 0 would make its refusal look like the server's shutdown notice.
        return self._post(msgspec.structs.replace(message, rid=self._mail.issue()))

    def _post(self, message: Message) -> bool:
        # The socket's own method, although nobody awaits it: a send past zmq.asyncio could swallow
        # the signal that a reply has come.
        try:
            sent = asyncio.ensure_future(
                self._socket.send_multipart(framing.pack(message), zmq.NOBLOCK)
            )
        except RuntimeError:  # a task that dies with its event loop: ``_leave`` tells the server
            return False
        return sent.done() and sent.exception() is None

    async def wait(self, rid: int, timeout_s: float, *, busy: bool = True) -> Received:
        """The reply to a request. Raises ConnectionLost, RemoteError.

        ``busy``: a server that says that it has the request is waited for up to ``busy_s``.
        """
        patience = Patience(self._mail, rid, timeout_s, self._busy_s if busy else 0.0)
        while not self._mail.has(rid) and self._mail.expects(rid):
            self._require_open()
            self._raise_broken()
            self._mail.raise_shutdown_notice()
            self._raise_refusal()
            self._raise_absence()
            if patience.left_s() <= 0:
                lost = patience.lost(self.endpoint, self.timeout_s, self._handshakes)
                await self._reconnect()
                raise lost
            await self._next_change(patience.pause_s())
            if patience.beat_is_due() and not self._socket.closed:
                self._post(self._mail.beat(rid))
            patience.tell(self.endpoint)
        if not self._mail.has(rid):  # another task's request went unanswered
            raise self._handshakes.lost(self.endpoint, self.timeout_s)
        return self._mail.take(rid)

    async def _next_change(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _raise_absence(self) -> None:
        """Raises NobodyListens: a first server has had its time to appear, and did not."""
        waited_s = time.monotonic() - self._begin_s
        if self._mail.info is None and waited_s >= self._connect_timeout_s:
            self._handshakes.raise_absence(self.endpoint, self._connect_timeout_s)

    def forget(self, rid: int) -> None:
        self._mail.forget(rid)

    def was_dropped(self, rid: int) -> bool:
        return self._mail.was_dropped(rid)

    def expects(self, rid: int) -> bool:
        return self._mail.expects(rid)

    @asynccontextmanager
    async def _patience(self, timeout_s: float) -> AsyncIterator[list[bool]]:
        """Gives its block ``timeout_s``; the list it yields is not empty if that was too short."""
        lost: list[bool] = []
        try:
            async with asyncio.timeout(timeout_s) as limit:
                yield lost
        except TimeoutError:
            if not limit.expired():
                raise
            lost.append(True)

    def _take(self, frames: Sequence[zmq.Frame]) -> None:
        """A reply came."""
        try:
            self._mail.put([frame.buffer for frame in frames], time.monotonic_ns())
        except ProtocolError as error:
            self._broken = error
        self._announce()

    def _feed(self, event: Sequence[bytes]) -> None:
        """Something became of a handshake."""
        self._handshakes.feed(event)
        self._announce()

    def _announce(self) -> None:
        """Wakes everybody who waits; whoever comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _connect(self) -> None:
        self._socket: zmq.asyncio.Socket = dealer(self._context, self._keys)
        self._monitor: zmq.asyncio.Socket = handshakes.monitor(self._context, self._socket)
        self._handshakes = Handshakes(with_keys=self._keys is not None, before=self._handshakes)
        connect(self._socket, self.endpoint)
        self._refused = False
        self._wires.sockets = [self._socket, self._monitor]
        self._wires.readers = [
            asyncio.create_task(_read(self._socket, weakref.WeakMethod(self._take), copy=False)),
            asyncio.create_task(_read(self._monitor, weakref.WeakMethod(self._feed), copy=True)),
        ]

    async def _reconnect(self) -> None:
        """Requests still queued must not reach a server that comes later: nobody waits for them."""
        if self._socket.closed:
            return
        handshakes.close(self._socket, self._monitor, linger_ms=0)
        self._mail.forget_all()
        readers = self._wires.readers
        self._connect()
        self._announce()
        await stopped(readers)

    def _raise_refusal(self) -> None:
        """libzmq connects no more after a refusal: the next request begins with a new socket."""
        try:
            self._handshakes.raise_refusal()
        except RemoteError:
            self._refused = True
            self._mail.forget_all()
            self._announce()
            raise

    def _raise_broken(self) -> None:
        """To the first who asks: later replies may be sound again."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def _require_open(self) -> None:
        if self._socket.closed:
            raise SessionClosed("the client is closed")


async def _read(
    socket: zmq.asyncio.Socket, take: weakref.WeakMethod[Callable[[Any], None]], *, copy: bool
) -> None:
    """Hands on what comes, as long as somebody is there to take it."""
    while True:
        parts = await socket.recv_multipart(copy=copy)
        method = take()
        if method is None:
            return
        method(parts)
        del method  # or this task would keep its connection while it waits
        # What is there already is received without waiting: a server that never stops sending
        # would leave no turn to anybody else.
        await asyncio.sleep(0)


def _leave(wires: _Wires) -> None:
    """What ``close`` does, for a connection that nobody closed."""
    if wires.owner.elsewhere:
        return
    try:
        running = asyncio.get_running_loop() is wires.loop
    except RuntimeError:
        running = False
    if not running and wires.loop.is_running():  # collected in another thread
        with suppress(RuntimeError):
            wires.loop.call_soon_threadsafe(_take_down, wires)
            return
    _take_down(wires)


def _take_down(wires: _Wires) -> None:
    socket, monitor = wires.sockets
    if socket.closed:
        return
    # The socket beneath: zmq.asyncio's own needs its event loop, which may be closed.
    plain: zmq.Socket[bytes] = zmq.Socket(shadow=socket.underlying)
    for sid in wires.sids:
        with suppress(zmq.ZMQError):
            framing.send(plain, framing.pack(Close(sid=sid)), flags=zmq.NOBLOCK)
    if not wires.loop.is_closed():
        for task in wires.readers:
            task.cancel()
    handshakes.close(socket, monitor, linger_ms=CLOSE_LINGER_MS)
    wires.context.term()


async def stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
