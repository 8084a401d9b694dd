"""Answers scrapes of a registry over HTTP, for anybody who can reach the port.

One thread for all of them: a few connections at a time, a few seconds and kilobytes for a request,
one request each. Whoever connects and asks nothing makes room for those who come later, so that a
real scrape is answered, however many there are of the others. Needs prometheus_client.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sim_stream.last_resort import InternalErrors, LastResort

log = logging.getLogger(__name__)

CONNECTIONS = 16
BACKLOG = 128
ACCEPT_AGAIN_S = 0.2
REQUEST_BYTES = 8192
REQUEST_S = 5.0
ANSWER_S = 10.0
STOP_TIMEOUT_S = 5.0
LOG_EVERY_S = 1.0
PATHS = ("/", "/metrics")


class ScrapeServer:
    """Listens from construction on and answers from ``start`` to ``stop``. Raises OSError."""

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        errors: InternalErrors | None = None,
    ) -> None:
        self._registry = registry
        self._resort = LastResort("metrics", errors or InternalErrors())
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scrapes", daemon=True)
        # Those who have not asked yet, and those who are being answered; the oldest first.
        self._asking: dict[asyncio.StreamWriter, None] = {}
        self._answered: dict[asyncio.StreamWriter, None] = {}
        self._logged_s = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is being answered is cut off."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._accept_until_stopped())

    async def _accept_until_stopped(self) -> None:
        accepting = asyncio.create_task(self._accept())
        await self._stop.wait()
        accepting.cancel()
        self._socket.close()
        for writer in (*self._asking, *self._answered):
            writer.transport.abort()

    async def _accept(self) -> None:
        """One at a time, so that there are never more than there may be."""
        while True:
            try:
                await self._accept_one()
            except Exception as error:
                self._resort.caught(error, "a connection to the metrics")
                await asyncio.sleep(self._resort.pause_s())
            else:
                self._resort.well()

    async def _accept_one(self) -> None:
        try:
            connection, _ = await self._loop.sock_accept(self._socket)
        except OSError as error:  # no descriptor for it
            self._say("metrics: %s", error.strerror)
            self._make_room(max(0, len(self._asking) + len(self._answered) - 1))
            await asyncio.sleep(ACCEPT_AGAIN_S)
            return
        with ExitStack() as on_failure:
            on_failure.callback(connection.close)
            self._make_room(CONNECTIONS - 1)
            on_failure.pop_all()
        reader = asyncio.StreamReader(limit=REQUEST_BYTES)
        make = partial(asyncio.StreamReaderProtocol, reader, self._serve)
        with suppress(OSError):  # it has left again
            await self._loop.connect_accepted_socket(make, connection)

    def _make_room(self, left: int) -> None:
        """Those that ask nothing go first."""
        while len(self._asking) + len(self._answered) > left:
            waiting = self._asking or self._answered
            oldest = next(iter(waiting))
            del waiting[oldest]
            oldest.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._asking[writer] = None
        try:
            async with asyncio.timeout(REQUEST_S):
                lines = await _read_head(reader)
            if writer not in self._asking:  # it had to make room meanwhile
                return
            del self._asking[writer]
            self._answered[writer] = None
            async with asyncio.timeout(ANSWER_S):
                writer.write(self._try_to_answer(lines))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError):
            pass  # too slow, too long, or gone
        finally:
            self._asking.pop(writer, None)
            self._answered.pop(writer, None)
            writer.transport.abort()

    def _try_to_answer(self, lines: list[bytes]) -> bytes:
        """The last resort: a collector that fails costs this scrape, and no other."""
        try:
            return self._answer(lines)
        except Exception as error:
            self._resort.caught(error, "a scrape")
            return _reply("500 Internal Server Error")

    def _answer(self, lines: list[bytes]) -> bytes:
        words = lines[0].decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return _reply("400 Bad Request")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _reply("405 Method Not Allowed", Allow="GET, HEAD")
        try:
            url = urlsplit(target)
        except ValueError:
            return _reply("400 Bad Request")
        if url.path not in PATHS:
            return _reply("404 Not Found")
        registry: Any = self._registry
        names = parse_qs(url.query).get("name[]")
        if names:
            registry = registry.restricted_registry(names)
        encode, content_type = _encoder(_header(lines, "accept"))
        body = encode(registry)
        return _reply("200 OK", body, hide=method == "HEAD", **{"Content-Type": content_type})

    def _say(self, what: str, *details: object) -> None:
        if time.monotonic() - self._logged_s > LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.warning(what, *details)


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _read_head(reader: asyncio.StreamReader) -> list[bytes]:
    """The request's line and headers. Raises ValueError for too much, IncompleteReadError."""
    lines: list[bytes] = []
    total = 0
    while True:
        line = await reader.readline()
        total += len(line)
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        if total > REQUEST_BYTES:
            raise ValueError(f"a request of more than {REQUEST_BYTES} bytes")
        if line.strip() == b"":
            if lines:
                return lines
            continue
        lines.append(line)


def _header(lines: list[bytes], name: str) -> str:
    for line in lines[1:]:
        key, _, value = line.decode("latin-1").partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


def _encoder(accept: str) -> tuple[Callable[[Any], bytes], str]:
    """The format that is asked for; the plain one where that makes no sense to the library."""
    try:
        return choose_encoder(accept)
    except Exception:  # a version that is no number, say: the peer's doing, not an internal error
        return choose_encoder("")


def _reply(status: str, body: bytes = b"", *, hide: bool = False, **headers: str) -> bytes:
    headers = {"Content-Length": str(len(body)), "Connection": "close"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + (b"" if hide else body)
