"""What viewers may do with sessions, and what they are told.

One viewer has a session's wheel; it alone may steer, start, pause, reset and close it, until it
lets go, leaves, or another takes the wheel. Everybody may watch, fork, and open sessions. What
needs the server's answer runs beside the commands, one at a time for each viewer. What fails in a
way that nobody foresaw costs one session, one command or one round, never the page.

Knows no sockets and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import msgspec

from sim_stream.errors import InvalidInput, SimStreamError
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.prompts import Prompt
from sim_stream.view.channel import Channel
from sim_stream.view.controls import NO_KEYS, HeldKeys
from sim_stream.view.drive import Drive
from sim_stream.view.greeting import welcome
from sim_stream.view.health import Health
from sim_stream.view.messages import (
    AnyCommand,
    Close,
    Ending,
    Fork,
    Keys,
    Notice,
    Open,
    Reset,
    Run,
    Seen,
    Set,
    State,
    Watch,
    Welcome,
    Wheel,
    encode,
)
from sim_stream.view.sessions import Sessions
from sim_stream.view.step_inputs import KEYED
from sim_stream.view.viewer import Viewer
from sim_stream.wire.client.async_client import AsyncStreamClient

log = logging.getLogger(__name__)

STATE_EVERY_S = 0.1  # at most
STATE_AFTER_S = 1.0  # at least
UNFORESEEN = "this failed in a way that nobody foresaw; the page's log says how"
GOODBYE_S = 0.2
ALIVE = ("running", "paused")


class Hub:
    """``tasks`` runs the sessions; ``stop`` ends what was started there."""

    def __init__(
        self,
        client: AsyncStreamClient,
        prompts: Mapping[str, Prompt],
        tasks: asyncio.TaskGroup,
        *,
        lookahead: int | None = None,
        seed: int = 0,
        advice: str = "",
    ) -> None:
        self._client = client
        self._first_seed = seed
        self._viewers: dict[int, Viewer] = {}
        self._numbers = count(1)
        self._busy: set[int] = set()
        self._dirty = asyncio.Event()
        self.errors = InternalErrors()
        self.resort = LastResort("page", self.errors)
        self._tasks = tasks
        self._started: set[asyncio.Task[None]] = set()
        self.sessions = Sessions(client, prompts, self._dirty.set, self.start, lookahead=lookahead)
        self.health = Health(
            client, self._dirty.set, self._meet_again, advice=advice, resort=self.resort
        )
        self.start(self._broadcast())
        self.start(self.health.watch())

    def stop(self) -> None:
        for task in [*self._started]:
            task.cancel()

    @property
    def endpoint(self) -> str:
        """Of the server."""
        return self._client.endpoint

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def join(self) -> Viewer:
        """A new viewer, shown the first session."""
        viewer = Viewer(next(self._numbers))
        self._viewers[viewer.number] = viewer
        viewer.tell(self._welcome(viewer))
        self._show_any(viewer)
        log.info("viewer %d came", viewer.number)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        del self._viewers[viewer.number]
        self._turn_away(viewer)
        self._dirty.set()
        log.info("viewer %d left; %d frames dropped", viewer.number, viewer.dropped)

    def obey(self, viewer: Viewer, command: AnyCommand) -> None:
        """Does not wait. Raises InvalidInput, which changes nothing."""
        match command:
            case Seen():
                viewer.seen()
                return
            case Watch():
                self._watch(viewer, self.sessions.channel(command.sid))
            case Keys():
                self._hold(viewer, command)
            case Set():
                self._put(viewer, command)
            case Wheel():
                self._wheel(viewer, self.sessions.drive(command.sid), take=command.take)
            case Run():
                self._driven(viewer, command.sid).run(command.running)
            case _:
                self._set_about(viewer, command)
        self._dirty.set()

    # Commands.

    def _watch(self, viewer: Viewer, channel: Channel) -> None:
        if viewer.watching != channel.sid:
            self._turn_away(viewer)
            channel.join(viewer)

    def _hold(self, viewer: Viewer, command: Keys) -> None:
        drive = self.sessions.drive(command.sid)
        keys = HeldKeys(up=command.up, down=command.down, left=command.left, right=command.right)
        if viewer.watching != drive.sid or (drive.driver is None and keys == NO_KEYS):
            return  # sent before it knew that it was shown another session, or had lost the wheel
        self._require_wheel(viewer, drive)
        if drive.inputs.keys is None:
            raise InvalidInput("keys", "pressed", f"nothing: this model takes no {KEYED[0]}")
        drive.driver = viewer.number
        drive.inputs.hold(keys)

    def _put(self, viewer: Viewer, command: Set) -> None:
        drive = self._driven(viewer, command.sid)
        drive.inputs.put(command.name, command.value)
        if viewer.watching == drive.sid:
            drive.driver = viewer.number

    def _wheel(self, viewer: Viewer, drive: Drive, *, take: bool) -> None:
        if viewer.watching != drive.sid:
            raise InvalidInput("session", drive.name, "the one you watch")
        if not take:
            self._require_wheel(viewer, drive)
        drive.driver = viewer.number if take else None
        drive.let_go()

    def _set_about(self, viewer: Viewer, command: Open | Fork | Reset | Close) -> None:
        """Starts what has to wait for the server."""
        if self.health.outage:
            raise InvalidInput("command", "one for the server", f"none now. {self.health.outage}")
        if viewer.number in self._busy:
            raise InvalidInput("command", "one more", "one at a time; the last is still at work")
        match command:
            case Open():
                prompt = self.sessions.prompt(command.prompt)
                work = self._enter(
                    viewer,
                    self.sessions.open(command.seed, prompt, command.inputs, command.options),
                )
            case Fork():
                work = self._enter(viewer, self.sessions.fork(self.sessions.drive(command.sid)))
            case Reset():
                prompt = self.sessions.prompt(command.prompt)
                drive = self._driven(viewer, command.sid)
                work = self.sessions.reset(
                    drive, command.seed, prompt, command.inputs, command.options
                )
            case Close():
                work = self._close(self._driven(viewer, command.sid))
        self._busy.add(viewer.number)
        self.start(self._finish(viewer, work))

    async def _finish(self, viewer: Viewer, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SimStreamError as error:
            viewer.tell(Notice(text=str(error)))
        except Exception as error:
            self.resort.caught(error, f"a command of viewer {viewer.number}")
            viewer.tell(Notice(text=UNFORESEEN))
        finally:
            self._busy.discard(viewer.number)

    async def _enter(self, viewer: Viewer, making: Coroutine[Any, Any, Drive]) -> None:
        """Who made a session watches it and has its wheel."""
        drive = await making
        if viewer.number in self._viewers:
            self._watch(viewer, drive)
            drive.driver = viewer.number

    async def _close(self, drive: Drive) -> None:
        await self.sessions.close(drive)
        self._show_others(drive)

    # Who watches and who drives.

    def _driven(self, viewer: Viewer, sid: str) -> Drive:
        drive = self.sessions.drive(sid)
        self._require_wheel(viewer, drive)
        return drive

    def _require_wheel(self, viewer: Viewer, drive: Drive) -> None:
        if drive.driver not in (None, viewer.number):
            raise InvalidInput(
                "session", drive.name, f"viewer {drive.driver}, who has the wheel; take it first"
            )

    def _turn_away(self, viewer: Viewer) -> None:
        """From the session that it watched; the wheel is let go."""
        channel = self.sessions.channels.get(viewer.watching or "")
        viewer.turn_to(None, None)
        if channel is None:
            return
        channel.leave(viewer)
        if isinstance(channel, Drive) and channel.driver == viewer.number:
            channel.driver = None
            channel.let_go()

    def _show_any(self, viewer: Viewer) -> None:
        for channel in self.sessions.channels.values():
            self._watch(viewer, channel)
            return

    def _show_others(self, gone: Channel) -> None:
        for viewer in self._viewers.values():
            if viewer.watching == gone.sid:
                viewer.turn_to(None, None)
                self._show_any(viewer)

    # What everybody is told.

    def _welcome(self, viewer: Viewer) -> Welcome:
        info, prompts = self._client.info, self.sessions.prompts
        return welcome(viewer.number, self.endpoint, info, prompts, self._first_seed)

    def state(self) -> State:
        sessions = [channel.state() for channel in self.sessions.channels.values()]
        if self.health.outage:  # nothing runs on a server that is away
            sessions = [
                msgspec.structs.replace(s, state="waiting") if s.state in ALIVE else s
                for s in sessions
            ]
        return State(
            sessions=sessions,
            viewers=[viewer.state() for viewer in self._viewers.values()],
            server=self.health.server,
            outage=self.health.outage,
        )

    def _meet_again(self) -> None:
        """The server that answers now may be another one, without our sessions."""
        for viewer in self._viewers.values():
            viewer.tell(self._welcome(viewer))
        for channel in self.sessions.channels.values():
            if isinstance(channel, Drive):
                channel.ask()

    async def _broadcast(self) -> None:
        while True:
            with self.resort.around("what everybody is told"):
                await self._tell_all()
            await asyncio.sleep(STATE_EVERY_S)

    async def _tell_all(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(STATE_AFTER_S):
                await self._dirty.wait()
        for channel in self.sessions.forget_silent():
            self._show_others(channel)
        self._dirty.clear()
        state = encode(self.state())
        for viewer in self._viewers.values():
            viewer.offer_state(state)

    async def end(self, text: str) -> None:
        """Tells every viewer why the page goes; they have a moment to hear it."""
        for viewer in self._viewers.values():
            viewer.tell(Ending(text=text))
        if self._viewers:
            await asyncio.sleep(GOODBYE_S)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside all else. A SimStreamError is the end of the page, as of a subscription that is
        no address; what nobody foresaw is the end of that work alone."""
        task = self._tasks.create_task(self._guarded(work))
        self._started.add(task)
        task.add_done_callback(self._started.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SimStreamError:
            raise
        except Exception as error:
            self.resort.caught(error, getattr(work, "__qualname__", "work of the page"))
