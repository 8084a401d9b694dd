"""Whether the server answers: asked twice a second, and met anew when it is back.

A server that was started again is another one: it knows only sessions that were recorded, and may
have other weights. Knows no viewers and no processes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from sim_stream.errors import ConnectionLost, ProtocolError, RemoteError
from sim_stream.last_resort import LastResort
from sim_stream.view.messages import ServerState
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.messages import ErrorCode

log = logging.getLogger(__name__)

POLL_S = 0.5
SILENT_S = 4.0  # a server answers while its engine computes; a busy machine may take a while
RETRY_S = 1.0


class Health:
    """``outage``: why nothing can be asked of the server, for people; empty while it answers.

    ``changed`` is called when the page would look different, ``returned`` when it answers again.
    ``advice``: what to do about a server that is silent.
    """

    def __init__(
        self,
        client: AsyncStreamClient,
        changed: Callable[[], None],
        returned: Callable[[], None],
        *,
        advice: str,
        resort: LastResort,
    ) -> None:
        self._client = client
        self._changed, self._returned = changed, returned
        self._advice, self._resort = advice, resort
        self._server: ServerState | None = None
        self._heard_s = time.monotonic()
        self._silence = ""
        self._death = ""

    @property
    def outage(self) -> str:
        return self._death or self._silence

    @property
    def server(self) -> ServerState | None:
        """Its last answer, and how old that is."""
        if self._server is None:
            return None
        age_s = round(time.monotonic() - self._heard_s, 2)
        return msgspec.structs.replace(self._server, age_s=age_s)

    def died(self, why: str) -> None:
        """Known from elsewhere; holds until ``restarted``."""
        self._death = why
        self._changed()

    def restarted(self) -> None:
        """It listens again; the outage is over when it has answered."""
        self._silence, self._death = "The server has started again.", ""
        self._changed()

    async def watch(self) -> None:
        """For ever."""
        while True:
            with self._resort.around("the server's status"):
                await self._ask()
            await asyncio.sleep(POLL_S)

    async def _ask(self) -> None:
        away = bool(self.outage)
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(RETRY_S if away else SILENT_S):
                if away:  # a shutdown notice of the last one is not an answer of this one
                    await self._client.greet()
                status = await self._client.status()
        except (TimeoutError, ConnectionLost):
            self._silent(f"No answer from {self._client.endpoint}.")
        except RemoteError as error:
            if error.code == ErrorCode.SHUTTING_DOWN:
                self._silent(f"The server at {self._client.endpoint} has shut down.")
            else:
                log.warning("no status: %s", error)
        except ProtocolError as error:
            log.warning("no status: %s", error)
        else:
            self._heard_s = time.monotonic()
            self._server = ServerState(
                age_s=0.0,
                answer_ms=round((self._heard_s - asked_s) * 1e3, 3),
                queued=status.queued,
                sessions=status.sessions,
                progress=status.progress,
                undelivered=status.undelivered,
            )
            self._answered()

    def _silent(self, what: str) -> None:
        if not self.outage:
            log.warning("%s %s", what, self._advice)
        self._silence = f"{what} {self._advice}"
        self._changed()

    def _answered(self) -> None:
        was_away, self._silence = bool(self._silence), ""
        if was_away and not self._death:
            log.warning("the server at %s answers again", self._client.endpoint)
            self._returned()
        self._changed()
