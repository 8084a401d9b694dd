"""``Drive``: a session of ours, stepped by the clock under the keys of whoever has the wheel.

A task of its own uses the session, alone. While it runs it sends a step every frame period and
keeps up to two in flight, so that the server predicts and decodes at the same time; paused it
sends heartbeats, so that the lease holds. Resets, forks and the close are orders that the task
carries out between steps. Nobody watching for a while is a reason to pause.

Knows no viewers' numbers but the driver's, and no sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sim_stream.errors import (
    ConnectionLost,
    InvalidInput,
    RemoteError,
    SessionClosed,
    SimStreamError,
)
from sim_stream.view.channel import Channel
from sim_stream.view.fields import SimpleValue
from sim_stream.view.messages import SessionState
from sim_stream.view.picture import Picture, header_of
from sim_stream.view.step_inputs import StepInputs
from sim_stream.wire.client.async_client import AsyncRemoteSession
from sim_stream.wire.client.frame import RemoteChunk
from sim_stream.wire.client.stream import OVER
from sim_stream.wire.messages import ErrorCode, HelloOk

T = TypeVar("T")
log = logging.getLogger(__name__)

STEPS_IN_FLIGHT = 2
# A step sent later than this part of its period counts as late (as in `sim-stream demo`).
LATE_TOLERANCE = 0.1
# A page that is loaded again comes back within this time.
UNWATCHED_S = 5.0
RETRY_S = 1.0
# However short a server says that its lease is.
SHORTEST_REST_S = 0.05
UNFORESEEN = "failed in a way that nobody foresaw; the page's log says how"


class Drive(Channel):
    """``inputs``: of the next step. ``over``: the server has no such session.

    ``parent``: the name of the session that this one was forked from.
    """

    def __init__(
        self,
        session: AsyncRemoteSession,
        info: HelloOk,
        changed: Callable[[], None],
        *,
        name: int,
        seed: int,
        inputs: StepInputs,
        parent: int | None = None,
        running: bool = False,
    ) -> None:
        super().__init__(session.sid, name, changed)
        self.seed = seed
        self.inputs = inputs
        self.parent = parent
        self.driver: int | None = None
        self.running = running
        self.over = False
        self._session = session
        self._info = info
        self._note = ""
        self._answers = True
        self._failed = False
        self._late = 0
        self._period_s = info.spec.period_ns / 1e9
        self._most_in_flight = min(STEPS_IN_FLIGHT, info.limits.max_in_flight)
        self._due_s = _now_s()
        self._watched_s = _now_s()
        self._sent: dict[int, dict[str, SimpleValue]] = {}
        self._orders: deque[Callable[[], Awaitable[None]]] = deque()
        self._wake = asyncio.Event()
        self._take_first()

    # For the hub; none of these waits for the server.

    def run(self, running: bool) -> None:
        """Steps, or pauses after the frames that are on their way."""
        self.running = running and not self.over
        self._due_s = _now_s()
        self._rouse()

    def let_go(self) -> None:
        """All keys, when the wheel changes hands."""
        self.inputs.let_go()

    async def order(self, what: Callable[[AsyncRemoteSession], Awaitable[T]]) -> T:
        """Lets the task do something with the session when no step is in flight; its result."""
        if self.over:
            raise SessionClosed(f"session {self.name} is over: {self._note}")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def carry_out() -> None:
            try:
                result = await what(self._session)
            except Exception as error:  # whoever gave the order is told, whatever it is
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self._orders.append(carry_out)
        self._rouse()
        return await done

    def restarted(self, seed: int, inputs: StepInputs) -> None:
        """After a reset."""
        self.seed, self.inputs = seed, inputs
        self._sent.clear()
        self._late, self._failed, self._note = 0, False, ""
        self._take_first()

    def ask(self) -> None:
        """Whether the server, which was away, still has the session; it is over if not."""

        async def carry_out() -> None:
            if self.over:  # a step in flight has found out before
                return
            await self._session.status()
            self._trouble(answers=True, note=self._note if self._failed else "")

        self._orders.append(carry_out)
        self._rouse()

    def state(self) -> SessionState:
        return SessionState(
            sid=self.sid,
            name=self.name,
            state=self._state(),
            note=self._note,
            warning=self._session.prompt_warning,
            parent=self.parent,
            seed=self.seed,
            committed_step=self.latest.header.committed_step if self.latest else 0,
            late=self._late,
            driver=self.driver,
            viewers=self.watched,
            inputs=self.inputs.set,
        )

    def end(self, note: str) -> None:
        """The server has no such session any more."""
        self.over, self.running, self._note = True, False, note
        self._rouse()

    # The task.

    async def drive(self) -> None:
        """Until the session is over."""
        while not self.over:
            try:
                await self._turn()
            except ConnectionLost as error:  # steps in flight are asked for again
                self._trouble(answers=False, note=str(error))
                await asyncio.sleep(RETRY_S)
            except RemoteError as error:
                self._refused(error)
            except SimStreamError as error:
                self.end(str(error))
            except Exception as error:
                log.exception("session %s ends here", self.sid, extra={"sid": self.sid})
                self.end(f"{UNFORESEEN}: {type(error).__name__}")
        while self._orders:
            await self._orders.popleft()()

    async def _turn(self) -> None:
        self._pause_if_unwatched()
        if self._orders or not self.running:
            while self._session.in_flight:
                await self._receive(None)
            if self._orders:
                await self._orders.popleft()()
            else:
                await self._rest()
            return
        due_s = self._due_s
        while self.running and not self._orders:
            full = self._session.in_flight >= self._most_in_flight
            if not full and _now_s() >= due_s:
                await self._send()
                return
            if self._session.in_flight:
                await self._receive(None if full else due_s)
            else:
                await self._sleep(due_s - _now_s())

    async def _send(self) -> None:
        late_s = _now_s() - self._due_s
        self._late += late_s > LATE_TOLERANCE * self._period_s
        self._due_s += max(self._period_s, late_s)  # the time that was lost is not caught up
        inputs = self.inputs.next_step(self._period_s)
        step = await self._session.send_step(inputs)
        self._sent[step] = inputs

    async def _receive(self, until_s: float | None) -> None:
        try:
            async with asyncio.timeout_at(until_s):
                chunk = await self._session.receive()
        except TimeoutError:
            return
        self._trouble(answers=True, note="")
        self._take(chunk)

    async def _rest(self) -> None:
        """Paused: a heartbeat now and then, three in a lease."""
        if not await self._sleep(max(self._info.lease_ms / 3e3, SHORTEST_REST_S)):
            await self._session.status()
            self._trouble(answers=True, note=self._note if self._failed else "")

    async def _sleep(self, seconds: float) -> bool:
        """True when roused."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _rouse(self) -> None:
        self._wake.set()
        self._changed()

    def _take_first(self) -> None:
        """What it starts with, where there is something."""
        try:
            first = self._session.frame
        except InvalidInput:
            self.latest = None
            self._changed()
        else:
            self._take(first)

    def _take(self, chunk: RemoteChunk) -> None:
        inputs = self._sent.get(chunk.step)
        self._sent = {step: sent for step, sent in self._sent.items() if step > chunk.step}
        header = header_of(self.sid, chunk, inputs, self._session.in_flight)
        self.show(Picture(header, chunk.images))

    def _pause_if_unwatched(self) -> None:
        if self.watched:
            self._watched_s = _now_s()
        elif self.running and _now_s() - self._watched_s > UNWATCHED_S:
            self.run(False)

    def _trouble(self, *, answers: bool, note: str) -> None:
        if (answers, note) != (self._answers, self._note):
            self._answers, self._note = answers, note
            self._changed()

    def _refused(self, error: RemoteError) -> None:
        """The session is over, or failed until a reset, or may try again."""
        if error.code in OVER:
            self.end(f"The server has this session no more ({error}).")
            return
        self._failed = self._failed or error.code == ErrorCode.ENGINE_FAILED
        self._note = str(error)
        # A conflict is what steps in flight get behind one that was refused.
        if error.retryable or error.code == ErrorCode.STEP_CONFLICT:
            self._changed()
        else:
            self.run(False)

    def _state(self) -> str:
        if self.over:
            return "ended"
        if not self._answers:
            return "waiting"
        if self._failed:
            return "failed"
        return "running" if self.running else "paused"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
