"""Our own server is started again when it dies, at the same address, so that the page goes on.

Not for ever: one that dies again and again, soon after it was ready, has a reason that a start more
does not mend. Knows processes, and whom to tell; no sessions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sim_stream.errors import Unavailable
from sim_stream.server_process import ServerProcess

log = logging.getLogger(__name__)

WATCH_S = 0.2
TRIES = 3  # deaths in a row, each ..
SOON_S = 30.0  # .. within this time after the server was ready


class Keeper:
    """``died(why)`` and ``restarted()`` are called in the event loop."""

    def __init__(
        self, process: ServerProcess, died: Callable[[str], None], restarted: Callable[[], None]
    ) -> None:
        self._process = process
        self._died, self._restarted = died, restarted
        self._ready_s = time.monotonic()
        self._deaths = 0

    async def keep(self) -> Unavailable:
        """Until it is of no use; why."""
        while True:
            while self._process.exit_status is None:
                await asyncio.sleep(WATCH_S)
            why = await asyncio.to_thread(self._process.obituary)
            soon = time.monotonic() - self._ready_s < SOON_S
            self._deaths = self._deaths + 1 if soon else 1
            again = await self._start_again(why)
            if again is not None:
                return again

    async def _start_again(self, why: str) -> Unavailable | None:
        """Why it is given up; None when it runs."""
        while self._deaths < TRIES:
            log.error("the server died: %s; starting it again", why)
            self._died(f"The server died: {why}. It is being started again.")
            try:
                await self._process_restarted()
            except Unavailable as error:
                why = str(error)
                self._deaths += 1
            else:
                self._ready_s = time.monotonic()
                self._restarted()
                return None
        return Unavailable(f"the server died, {self._deaths} times in a row: {why}")

    async def _process_restarted(self) -> None:
        """Starting waits for the server: in a thread, which ends soon when we are stopped."""
        try:
            await asyncio.to_thread(self._process.restart)
        except asyncio.CancelledError:
            self._process.give_up()
            raise
