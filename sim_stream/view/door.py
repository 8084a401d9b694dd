"""Who may stand at the page's door: so many connections, and for so long without a whole request.

aiohttp takes any number and leaves a half-sent request for as long as its sender likes. Knows no
pages.
"""

from __future__ import annotations

import asyncio
import logging
import time

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_server import Server

log = logging.getLogger(__name__)

# 32 viewers, each with its WebSocket and a browser's six connections for the files of the page.
CONNECTIONS = 256
REQUEST_S = 10.0
BACKLOG = 128
LOG_EVERY_S = 1.0


class Door:
    """A factory of protocols, for ``create_server``. Beyond ``CONNECTIONS`` the longest of those
    that have asked nothing makes room, or, where all have, the newcomer.
    """

    def __init__(self) -> None:
        self._server: Server | None = None
        self._waiting: dict[RequestHandler, None] = {}  # the oldest first
        self._logged_s = 0.0

    def opens(self, server: Server) -> None:
        self._server = server

    def __call__(self) -> RequestHandler:
        assert self._server is not None
        connection = self._server()
        self._waiting[connection] = None
        asyncio.get_running_loop().call_later(REQUEST_S, self._turn_away, connection)
        if len(self._server.connections) >= CONNECTIONS:
            # Soon, since the newcomer has no transport yet, which may be the one to go.
            asyncio.get_running_loop().call_soon(self._make_room)
        return connection

    def heard(self, connection: RequestHandler) -> None:
        """It sent a whole request."""
        self._waiting.pop(connection, None)

    def _turn_away(self, connection: RequestHandler) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            connection.force_close()

    def _make_room(self) -> None:
        assert self._server is not None
        if len(self._server.connections) <= CONNECTIONS:
            return
        if time.monotonic() - self._logged_s > LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.warning("%d connections: cut off one that has asked nothing", CONNECTIONS)
        for connection in [*self._waiting]:
            alive = connection in self._server.connections
            self._turn_away(connection)
            if alive:
                return
