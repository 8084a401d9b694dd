"""The sessions on the page: ours, which are driven, and other clients', which can be watched.

Opens, forks, resets and closes them on the server. Knows no viewers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any

from sim_stream.errors import InvalidInput
from sim_stream.prompts import Prompt
from sim_stream.view.channel import Channel
from sim_stream.view.drive import Drive
from sim_stream.view.fields import SimpleValue, obstacle
from sim_stream.view.foreign import Foreign
from sim_stream.view.step_inputs import StepInputs, of_prompt
from sim_stream.wire.client.async_client import AsyncRemoteSession, AsyncStreamClient
from sim_stream.wire.client.frame import RemoteChunk

MAX_FOREIGN = 64
NOTHING: Mapping[str, SimpleValue] = {}


class Sessions:
    """``changed`` is called when the list would look different, ``start`` runs a task.

    ``prompts``: what a session may start from, by name.
    """

    def __init__(
        self,
        client: AsyncStreamClient,
        prompts: Mapping[str, Prompt],
        changed: Callable[[], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
        *,
        lookahead: int | None,
    ) -> None:
        self._client = client
        self.prompts = prompts
        self._changed = changed
        self._start = start
        self._lookahead = lookahead
        self._names = count(1)
        self.channels: dict[str, Channel] = {}

    def channel(self, sid: str) -> Channel:
        """Raises InvalidInput."""
        if sid not in self.channels:
            raise InvalidInput("session", sid, "one of the list")
        return self.channels[sid]

    def drive(self, sid: str) -> Drive:
        """Raises InvalidInput."""
        channel = self.channel(sid)
        if not isinstance(channel, Drive):
            raise InvalidInput("session", sid, "a session of this page; this is another client's")
        return channel

    def prompt(self, name: str) -> Prompt:
        """The first one for an empty name. Raises InvalidInput."""
        if name and name not in self.prompts:
            raise InvalidInput("prompt", name, ", ".join(self.prompts))
        return self.prompts[name or next(iter(self.prompts))]

    async def open(
        self,
        seed: int,
        prompt: Prompt,
        inputs: Mapping[str, SimpleValue] = NOTHING,
        options: Mapping[str, SimpleValue] = NOTHING,
    ) -> Drive:
        """A new session, paused at its prompt. Raises SimStreamError."""
        spec = self._client.info.spec
        if reason := obstacle(spec):
            raise InvalidInput("session", "a new one", f"those of other clients: {reason}")
        session = await self._client.open(
            prompt.frames_THWC,
            seed=seed,
            inputs=inputs,
            prompt_inputs=of_prompt(spec.step_inputs, prompt),
            options=options,
            lookahead=self._lookahead,
        )
        return self._add(session, seed=seed, inputs=self._step_inputs(prompt))

    async def fork(self, parent: Drive) -> Drive:
        """Continues as the parent does, with no keys held. Raises SimStreamError."""
        child = await parent.order(lambda session: session.fork())
        return self._add(
            child,
            seed=parent.seed,
            inputs=parent.inputs.copy(),
            parent=parent.name,
            running=parent.running,
        )

    async def reset(
        self,
        drive: Drive,
        seed: int,
        prompt: Prompt,
        inputs: Mapping[str, SimpleValue],
        options: Mapping[str, SimpleValue],
    ) -> None:
        """From this prompt on, under another seed. Raises SimStreamError."""

        async def anew(session: AsyncRemoteSession) -> None:
            await session.reset(
                prompt.frames_THWC,
                seed=seed,
                inputs=inputs,
                prompt_inputs=of_prompt(self._client.info.spec.step_inputs, prompt),
                options=options,
            )
            drive.restarted(seed, self._step_inputs(prompt))

        await drive.order(anew)

    async def close(self, drive: Drive) -> None:
        """Ends it on the server, where it still is one, and takes it off the list."""
        if not drive.over:
            await drive.order(lambda session: session.close())
            drive.end("closed")
        self.channels.pop(drive.sid, None)
        self._changed()

    def take_published(self, sid: str, chunk: RemoteChunk) -> None:
        """Frames of any session of the server; ours came another way."""
        if sid not in self.channels:
            if sum(isinstance(c, Foreign) for c in self.channels.values()) >= MAX_FOREIGN:
                return
            self.channels[sid] = Foreign(sid, next(self._names), self._changed)
        channel = self.channels[sid]
        if isinstance(channel, Foreign):
            channel.take(chunk)

    def forget_silent(self) -> list[Channel]:
        """Other clients' sessions that seem to be over, off the list."""
        silent: list[Channel] = [
            c for c in self.channels.values() if isinstance(c, Foreign) and c.silent
        ]
        for channel in silent:
            del self.channels[channel.sid]
        return silent

    def _step_inputs(self, prompt: Prompt) -> StepInputs:
        return StepInputs(self._client.info.spec.step_inputs, speed_mps=prompt.speed_mps)

    def _add(
        self,
        session: AsyncRemoteSession,
        *,
        seed: int,
        inputs: StepInputs,
        parent: int | None = None,
        running: bool = False,
    ) -> Drive:
        drive = Drive(
            session,
            self._client.info,
            self._changed,
            name=next(self._names),
            seed=seed,
            inputs=inputs,
            parent=parent,
            running=running,
        )
        # A server that publishes may have shown it before its client knew its name.
        self.channels[drive.sid] = drive
        self._start(drive.drive())
        return drive
