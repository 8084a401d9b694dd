"""``AsyncStreamClient``: ``StreamClient`` for asyncio, with the same names, rules and errors.

    async with AsyncStreamClient("tcp://127.0.0.1:5555") as client:
        async with client.open(frames_THWC) as session:
            frame = await session.step(Action(speed_mps=10.0, yaw_rate_radps=0.0))

``session = await client.open(...)`` does without the context manager; ``fork`` may be used in both
ways, too. Sessions of one client may be used by as many tasks; a session belongs to one task at a
time, and all to the event loop that the client was entered in.
Imports no torch; knows the protocol, not the models.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from sim_stream.errors import InvalidInput, SessionClosed
from sim_stream.wire.client.arguments import InputsLike, Opening, Start
from sim_stream.wire.client.async_connection import AsyncConnection
from sim_stream.wire.client.blocking_client import RESUME_S, check_patience
from sim_stream.wire.client.frame import RemoteChunk
from sim_stream.wire.client.link import request_status, say_hello
from sim_stream.wire.client.operations import run_async
from sim_stream.wire.client.owner import NotCopied
from sim_stream.wire.client.patience import BUSY_S, CONNECT_TIMEOUT_S
from sim_stream.wire.client.stream import Stream, first_chunk, open_stream
from sim_stream.wire.endpoints import require_endpoint
from sim_stream.wire.keys import ClientKeys
from sim_stream.wire.messages import HelloOk, Status
from sim_stream.wire.observe import Observer

__all__ = ["AsyncRemoteSession", "AsyncStreamClient"]


class AsyncRemoteSession(NotCopied):
    """Opened by ``AsyncStreamClient.open``; an async context manager that closes it.

    What the methods do and raise is ``RemoteSession``'s.
    """

    def __init__(self, connection: AsyncConnection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    async def __aenter__(self) -> AsyncRemoteSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.abandon()

    @property
    def sid(self) -> str:
        return self._stream.sid

    @property
    def frame(self) -> RemoteChunk:
        """What the opening or the last reset showed; after ``fork`` the parent's last.

        Raises InvalidInput where the session began without prompt frames.
        """
        return first_chunk(self._stream)

    @property
    def seed(self) -> int:
        """Of its noise from here on."""
        return self._stream.seed

    @property
    def prompt_psnr_db(self) -> float | None:
        """Of the last prompt frame and ``frame`` 0, its reconstruction; None: the model has none.

        A fork has its parent's.
        """
        return self._stream.prompt_psnr_db

    @property
    def prompt_is_foreign(self) -> bool:
        """Whether the model cannot show its prompt, so that the drive will collapse; logged once.

        False where the weights do not say what they can show (``info.spec``).
        """
        return self._stream.prompt_is_foreign

    @property
    def prompt_warning(self) -> str:
        """That in words; empty where the prompt is not foreign."""
        return self._stream.prompt_warning

    @property
    def in_flight(self) -> int:
        """Steps sent whose frames were not received."""
        return len(self._stream.in_flight)

    async def step(
        self,
        inputs: InputsLike | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> RemoteChunk:
        """Predicts one frame further. After ConnectionLost, or when cancelled while it waits, the
        step is still in flight: ``receive`` asks for it again."""
        operation = self._stream.step(inputs, sim_time_us, deadline_ms)
        return await run_async(operation, self._connection)

    async def send_step(
        self,
        inputs: InputsLike | None = None,
        *,
        sim_time_us: int | None = None,
        deadline_ms: int | None = None,
    ) -> int:
        """Sends a step without waiting for its frame; its number."""
        operation = self._stream.send_step(inputs, sim_time_us, deadline_ms)
        return await run_async(operation, self._connection)

    async def receive(self) -> RemoteChunk:
        """The reply to the oldest step in flight; asks again when it was lost before."""
        return await run_async(self._stream.receive(), self._connection)

    async def reset(
        self,
        frames: Any = None,
        *,
        seed: int = 0,
        inputs: InputsLike | None = None,
        prompt_inputs: Sequence[InputsLike | None] | None = None,
        options: Mapping[str, float | str] | None = None,
    ) -> RemoteChunk | None:
        """Starts anew from prompt frames; steps count from 1 again."""
        start = Start(
            frames=frames, seed=seed, inputs=inputs, prompt_inputs=prompt_inputs, options=options
        )
        return await run_async(self._stream.reset(start), self._connection)

    def fork(self, *, seed: int | None = None) -> SessionToCome:
        """A second session that continues from here, independent of this one; ``seed``: of noise of
        its own."""
        return SessionToCome(self._fork(seed))

    async def _fork(self, seed: int | None) -> AsyncRemoteSession:
        stream = await run_async(self._stream.fork(seed), self._connection)
        return AsyncRemoteSession(self._connection, stream)

    async def status(self) -> Status:
        """The server's progress; asking keeps the session from expiring."""
        return await run_async(self._stream.status(), self._connection)

    async def close(self) -> RemoteChunk | None:
        """Ends the session; the last frames, when the lookahead still held some. Idempotent."""
        if self._connection.elsewhere:
            return None
        return await run_async(self._stream.close(), self._connection)

    def abandon(self) -> bool:
        """Tells the server, without waiting, that the session is over; says whether it did."""
        if self._connection.elsewhere:
            return False
        self._connection.require_owner()
        return self._stream.abandon()


class SessionToCome(Coroutine[Any, Any, AsyncRemoteSession]):
    """What ``open`` and ``fork`` give: a coroutine to await, or a context manager that does."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncRemoteSession]) -> None:
        self._opening = opening
        self._session: AsyncRemoteSession | None = None

    def __await__(self) -> Generator[Any, Any, AsyncRemoteSession]:
        return self._opening.__await__()

    async def __aenter__(self) -> AsyncRemoteSession:
        self._session = await self._opening
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None, "entered before"
        await self._session.__aexit__(kind, error, trace)

    def send(self, value: Any) -> Any:
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        return self._opening.throw(*error)

    def close(self) -> None:
        self._opening.close()


class AsyncStreamClient(NotCopied):
    """A connection to one server, made by ``async with``; arguments are ``StreamClient``'s."""

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5555",
        *,
        timeout_s: float = 30.0,
        resume_s: float = RESUME_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        busy_s: float = BUSY_S,
        observer: Observer | None = None,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
    ) -> None:
        check_patience(timeout_s, resume_s, connect_timeout_s, busy_s)
        self.endpoint = require_endpoint("endpoint", endpoint)
        self._timeout_s, self._resume_s = timeout_s, resume_s
        self._connect_timeout_s, self._busy_s = connect_timeout_s, busy_s
        self._observer = observer
        self._keys = ClientKeys.load(key, server_key)
        self._link: AsyncConnection | None = None

    async def __aenter__(self) -> AsyncStreamClient:
        try:
            self._link = AsyncConnection(
                self.endpoint,
                timeout_s=self._timeout_s,
                resume_s=self._resume_s,
                connect_timeout_s=self._connect_timeout_s,
                busy_s=self._busy_s,
                keys=self._keys,
            )
        except zmq.ZMQError as error:
            raise InvalidInput("endpoint", self.endpoint, f"tcp://HOST:PORT ({error})") from error
        try:
            await run_async(say_hello(self._link), self._link)
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def info(self) -> HelloOk:
        """What the server said of itself; after a session was resumed, the server that did it."""
        return self._connection.info

    def open(
        self,
        frames: Any = None,
        *,
        seed: int = 0,
        inputs: InputsLike | None = None,
        prompt_inputs: Sequence[InputsLike | None] | None = None,
        options: Mapping[str, float | str] | None = None,
        lookahead: int | None = None,
        record: bool | None = None,
        mode: str = "lockstep",
    ) -> SessionToCome:
        """Opens a session on prompt frames, uint8 [T, H, W, 3] (``StreamClient.open``)."""
        start = Start(
            frames=frames, seed=seed, inputs=inputs, prompt_inputs=prompt_inputs, options=options
        )
        return SessionToCome(
            self._open(Opening(start=start, lookahead=lookahead, record=record, mode=mode))
        )

    async def _open(self, what: Opening) -> AsyncRemoteSession:
        link = self._connection
        opening = open_stream(link, self._observer, what)
        return AsyncRemoteSession(link, await run_async(opening, link))

    async def greet(self) -> HelloOk:
        """Meets whatever server answers at this address now, after the last one went: what it says
        of itself, which is ``info`` from here on."""
        link = self._connection
        return await run_async(say_hello(link, anew=True), link)

    async def status(self) -> Status:
        """The server's sessions, queue and progress; answered even while the engine computes."""
        link = self._connection
        return await run_async(request_status(link, ""), link)

    async def close(self) -> None:
        """Ends the connection and, without waiting, the sessions still open. Idempotent."""
        if self._link is not None and not self._link.elsewhere and not self._link.closed:
            self._link.require_owner()
            await self._link.close()

    @property
    def _connection(self) -> AsyncConnection:
        if self._link is not None:
            self._link.require_owner()
        if self._link is None or self._link.closed:
            raise SessionClosed("the client is closed, or was not entered with `async with`")
        return self._link
