"""One viewer's outgoing side: the newest frame, the newest state, and a few notices.

Nothing queues up: a frame that was not sent when the next one comes is dropped and counted, and no
more than two frames are on their way until the page says that it drew one (``seen``). So neither a
slow network nor a slow browser holds up anybody else, and what a viewer sees is never old.

Knows no sessions; the socket is whatever takes text and bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol

from sim_stream.view.messages import Event, ViewerState, encode
from sim_stream.view.picture import Picture

log = logging.getLogger(__name__)

UNSEEN_FRAMES = 2
NOTICES = 8


class Outlet(Protocol):
    """What the pump writes to (a WebSocket)."""

    async def send_str(self, data: str) -> None: ...
    async def send_bytes(self, data: bytes) -> None: ...


class Viewer:
    """``watching`` is the sid of the session that it is shown."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.watching: str | None = None
        self.sent = 0
        self.dropped = 0
        self._unseen = 0
        self._picture: Picture | None = None
        self._state: bytes | None = None
        self._events: deque[bytes] = deque(maxlen=NOTICES)
        self._changed = asyncio.Event()

    def offer(self, picture: Picture) -> None:
        """A frame, in place of one that still waits."""
        self.dropped += self._picture is not None
        self._picture = picture
        self._changed.set()

    def turn_to(self, sid: str | None, latest: Picture | None) -> None:
        """Another session from here on; what waited of the last one is no loss."""
        self.watching = sid
        self._picture = latest
        self._changed.set()

    def offer_state(self, state: bytes) -> None:
        self._state = state
        self._changed.set()

    def tell(self, event: Event) -> None:
        """Of too many the oldest are forgotten."""
        self._events.append(encode(event))
        self._changed.set()

    def seen(self) -> None:
        self._unseen = max(self._unseen - 1, 0)
        self._changed.set()

    def state(self) -> ViewerState:
        return ViewerState(
            viewer=self.number, watching=self.watching, sent=self.sent, dropped=self.dropped
        )

    async def pump(self, outlet: Outlet) -> None:
        """Sends what is there, for ever. Raises ConnectionError when the viewer is gone."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._events:
                await outlet.send_str(self._events.popleft().decode())
            if self._state is not None:
                state, self._state = self._state, None
                await outlet.send_str(state.decode())
            if self._picture is not None and self._unseen < UNSEEN_FRAMES:
                picture, self._picture = self._picture, None
                packet = await self._encoded(picture)
                if packet is None:
                    continue
                self._unseen += 1
                self.sent += 1
                await outlet.send_bytes(packet)

    async def _encoded(self, picture: Picture) -> bytes | None:
        """None: it cannot be shown, which counts as dropped; the next one may be."""
        try:
            return await picture.packet()
        except Exception:
            log.exception("viewer %d: a frame cannot be shown", self.number)
            self.dropped += 1
            return None
