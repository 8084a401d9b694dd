"""The page over HTTP, and a WebSocket for each viewer.

Serves the files of ``static`` by name, nothing else. Knows no sessions: commands go to the hub.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from aiohttp import WSCloseCode, WSMsgType, web

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.view import guard
from sim_stream.view.door import BACKLOG, REQUEST_S, Door
from sim_stream.view.hub import UNFORESEEN, Hub
from sim_stream.view.messages import COMMAND_BYTES, Notice, decode_command
from sim_stream.view.viewer import Viewer

log = logging.getLogger(__name__)

MAX_VIEWERS = 32
PING_S = 15.0  # a viewer that does not answer is gone
CLOSE_S = 1.0
CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

DOOR = web.AppKey("door", Door)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """The HTTP side of a hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._files = _read_files()
        self._sockets: set[web.WebSocketResponse] = set()
        self.app = web.Application(
            middlewares=[_heard, _only_this_machine], client_max_size=COMMAND_BYTES
        )
        self.app[DOOR] = Door()
        self.app.router.add_get("/", self._index)
        self.app.router.add_get("/static/{name}", self._static)
        self.app.router.add_get("/socket", self._socket)

    async def hang_up(self) -> None:
        """Tells every viewer that the page's server is going away."""
        goodbyes = (
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ended")
            for socket in self._sockets
        )
        await asyncio.gather(*goodbyes, return_exceptions=True)

    async def _index(self, request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound
        body, content_type = self._files[name]
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers=guard.PAGE_HEADERS
        )

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not guard.is_own_page(request.headers.get("Origin"), request.headers.get("Host")):
            raise web.HTTPForbidden(text="only the page that this server served may connect")
        if self._hub.viewers >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_VIEWERS} viewers are here; close one")
        socket = web.WebSocketResponse(
            max_msg_size=COMMAND_BYTES, heartbeat=PING_S, timeout=CLOSE_S, compress=False
        )
        await socket.prepare(request)
        viewer = self._hub.join()
        pump = asyncio.create_task(_pump(viewer, socket))
        self._sockets.add(socket)
        try:
            async for message in socket:
                self._obey(viewer, message.data if message.type is WSMsgType.TEXT else "")
        finally:
            self._sockets.discard(socket)
            self._hub.leave(viewer)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        return socket

    def _obey(self, viewer: Viewer, text: str) -> None:
        try:
            self._hub.obey(viewer, decode_command(text))
        except InvalidInput as error:
            viewer.tell(Notice(text=str(error)))
        except Exception as error:
            self._hub.resort.caught(error, f"a command of viewer {viewer.number}")
            viewer.tell(Notice(text=UNFORESEEN))


@asynccontextmanager
async def serving(hub: Hub, host: str, port: int) -> AsyncIterator[str]:
    """The page's address while it is served. Raises Unavailable."""
    page = Page(hub)
    runner = web.AppRunner(
        page.app, access_log=None, shutdown_timeout=CLOSE_S, keepalive_timeout=REQUEST_S
    )
    await runner.setup()
    assert runner.server is not None
    page.app[DOOR].opens(runner.server)
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                page.app[DOOR], host, port, backlog=BACKLOG
            )
        except OSError as error:
            raise Unavailable(
                f"cannot serve at {host}:{port}: {error.strerror}; --port chooses another"
            ) from error
        try:
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{server.sockets[0].getsockname()[1]}/"
            await page.hang_up()
        finally:
            server.close()
    finally:
        await runner.cleanup()


async def _pump(viewer: Viewer, socket: web.WebSocketResponse) -> None:
    try:
        with suppress(ConnectionError):  # the reader sees it, too, and says that the viewer left
            await viewer.pump(socket)
    except Exception:  # a page that gets nothing any more would look as if all was well
        log.exception("viewer %d: hung up", viewer.number)
        await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=b"the page's server failed")


@web.middleware
async def _heard(request: web.Request, handler: Handler) -> web.StreamResponse:
    request.app[DOOR].heard(request.protocol)
    return await handler(request)


@web.middleware
async def _only_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not guard.names_this_machine(request.headers.get("Host")):
        raise web.HTTPForbidden(text="this page is for this machine: open it as localhost")
    return await handler(request)


def _read_files() -> dict[str, tuple[bytes, str]]:
    found = {}
    for entry in files("sim_stream.view").joinpath("static").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in CONTENT_TYPES:
            found[entry.name] = (entry.read_bytes(), CONTENT_TYPES[suffix])
    return found
