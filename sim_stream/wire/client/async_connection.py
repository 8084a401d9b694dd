"""One client's connection under asyncio: as ``connection``, with requests of many tasks at once.

A zmq.asyncio DEALER socket with its monitor and a task that reads each; all belong to the event
loop they were made in. Knows no sessions and no frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import msgspec
import zmq
import zmq.asyncio

from sim_stream.errors import ProtocolError, RemoteError, SessionClosed
from sim_stream.wire import framing
from sim_stream.wire.client import handshakes
from sim_stream.wire.client.blocking_connection import connect, dealer
from sim_stream.wire.client.handshakes import Handshakes
from sim_stream.wire.client.mailbox import Mailbox, Received
from sim_stream.wire.framing import ZERO_COPY_BYTES, Arrays
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import HelloOk, Message

_NO_ARRAYS: Arrays = {}


class AsyncConnection:
    """Connects at once, in the background. Needs a running event loop."""

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
        self._changed = asyncio.Event()
        self._broken: ProtocolError | None = None
        self._context = zmq.asyncio.Context()
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

    async def close(self, *, linger_ms: int = 0) -> None:
        """Idempotent. Whoever waits for a reply gets SessionClosed."""
        if not self._socket.closed:
            await stopped(self._readers)
            handshakes.close(self._socket, self._monitor, linger_ms=linger_ms)
            self._context.term()
            self._announce()

    async def send(self, message: Message, arrays: Arrays = _NO_ARRAYS, *, anew: bool) -> int:
        """Sends a request; its rid, to ``wait`` for. Raises ConnectionLost, RemoteError."""
        self._require_open()
        await self._raise_refusal()
        self._mail.begin(anew=anew)
        rid = self._mail.issue()
        parts = framing.pack(msgspec.structs.replace(message, rid=rid), arrays)
        copy = all(memoryview(part).nbytes < ZERO_COPY_BYTES for part in parts)
        self._mail.expect(rid)
        async with self._patience(self.timeout_s) as lost:
            await self._sent(self._socket.send_multipart(parts, copy=copy))
        if lost:
            self._mail.forget(rid)
            await self._raise_refusal()
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
                    await self._raise_refusal()
        finally:
            task.cancel()
        await task

    def send_unanswered(self, message: Message) -> bool:
        """Sends a request if that can be done at once, and ignores its reply."""
        # A rid of its own: 0 would make its refusal look like the server's farewell.
        return self._post(msgspec.structs.replace(message, rid=self._mail.issue()))

    def _post(self, message: Message) -> bool:
        # The socket's own method, although nobody awaits it: a send past zmq.asyncio could swallow
        # the signal that a reply has come.
        sent = asyncio.ensure_future(
            self._socket.send_multipart(framing.pack(message), zmq.NOBLOCK)
        )
        return sent.done() and sent.exception() is None

    async def wait(self, rid: int, timeout_s: float) -> Received:
        """The reply to a request. Raises ConnectionLost, RemoteError."""
        async with self._patience(timeout_s) as lost:
            while not self._mail.has(rid) and self._mail.expects(rid):
                self._require_open()
                self._raise_broken()
                self._mail.raise_farewell()
                await self._raise_refusal()
                await self._next_change()
        failure = self._handshakes.lost(self.endpoint, self.timeout_s)
        if lost:
            await self._reconnect()
        if lost or not self._mail.has(rid):  # another task's request went unanswered
            raise failure
        return self._mail.take(rid)

    async def _next_change(self) -> None:
        """What comes next; when nothing does, whether the server is still the same."""
        try:
            async with asyncio.timeout(self._mail.heartbeat_s):
                await self._changed.wait()
        except TimeoutError:
            self._post(self._mail.beat())

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

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart(copy=False)
            try:
                self._mail.put([frame.buffer for frame in frames], time.monotonic_ns())
            except ProtocolError as error:
                self._broken = error
            self._announce()
            # What is there already is received without waiting: a server that never stops sending
            # would leave no turn to anybody else.
            await asyncio.sleep(0)

    async def _watch(self, state: Handshakes, socket: zmq.asyncio.Socket) -> None:
        while True:
            state.feed(await socket.recv_multipart())
            self._announce()
            await asyncio.sleep(0)

    def _announce(self) -> None:
        """Wakes everybody who waits; whoever comes later waits for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _connect(self) -> None:
        self._socket: zmq.asyncio.Socket = dealer(self._context, self._keys)
        self._monitor: zmq.asyncio.Socket = handshakes.monitor(self._context, self._socket)
        self._handshakes = Handshakes(with_keys=self._keys is not None)
        connect(self._socket, self.endpoint)
        self._readers = [
            asyncio.create_task(self._read(self._socket)),
            asyncio.create_task(self._watch(self._handshakes, self._monitor)),
        ]

    async def _reconnect(self) -> None:
        """Requests still queued must not reach a server that comes later: nobody waits for them."""
        if self._socket.closed:
            return
        handshakes.close(self._socket, self._monitor, linger_ms=0)
        self._mail.forget_all()
        readers = self._readers
        self._connect()
        self._announce()
        await stopped(readers)

    async def _raise_refusal(self) -> None:
        """libzmq connects no more after a refusal: the next request begins with a new socket."""
        try:
            self._handshakes.raise_refusal()
        except RemoteError:
            await self._reconnect()
            raise

    def _raise_broken(self) -> None:
        """To the first who asks: later replies may be sound again."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken

    def _require_open(self) -> None:
        if self._socket.closed:
            raise SessionClosed("the client is closed")


async def stopped(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
