"""Frames of every session of a server, other clients' too, from its PUB socket.

Reads as fast as they come; what this process does not read in time ZeroMQ drops. Knows the wire's
viewers' message (bridge/PROTOCOL.md), nothing of who looks at the frames.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq
import zmq.asyncio

from sim_stream.errors import InvalidInput, ProtocolError
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.wire import codec, framing
from sim_stream.wire.client.frame import RemoteChunk, remote_chunk
from sim_stream.wire.client.mailbox import LIMITS, Received
from sim_stream.wire.endpoints import require_endpoint
from sim_stream.wire.keys import ClientKeys

log = logging.getLogger(__name__)

FRAMES_WAITING = 8


def connect(
    context: zmq.asyncio.Context, endpoint: str, keys: ClientKeys | None
) -> zmq.asyncio.Socket:
    """Raises InvalidInput."""
    require_endpoint("subscribe", endpoint)
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    socket.set_hwm(FRAMES_WAITING)
    socket.set(zmq.MAXMSGSIZE, LIMITS.message_bytes)
    socket.set(zmq.IPV6, int("[" in endpoint))
    socket.subscribe(b"")
    if keys is not None:
        keys.secure(socket)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise InvalidInput("subscribe", endpoint, f"tcp://HOST:PORT ({error})") from error
    return socket


async def listen(
    endpoint: str,
    on_frames: Callable[[str, RemoteChunk], None],
    keys: ClientKeys | None = None,
) -> None:
    """Hands over (sid, frames) for ever, whatever else comes. The frames' ``round_trip`` is 0.

    Raises InvalidInput.
    """
    context = zmq.asyncio.Context()
    resort = LastResort("viewers' socket", InternalErrors())
    try:
        socket = connect(context, endpoint, keys)
        with socket:
            while True:
                _, *parts = await socket.recv_multipart(copy=False)
                with resort.around("a message for viewers"):
                    try:
                        sid, chunk = _read([part.buffer for part in parts])
                    except ProtocolError as error:
                        log.warning("viewers' socket: %s", error)
                    else:
                        on_frames(sid, chunk)
                # What is there already is received without waiting: others need a turn, too.
                await asyncio.sleep(0)
    finally:
        context.destroy(linger=0)


def _read(parts: list[memoryview]) -> tuple[str, RemoteChunk]:
    framing.check_sizes(parts, LIMITS)
    message = codec.decode_reply(parts[0])
    arrays = framing.unpack(message.arrays, parts[1:])
    now_ns = time.monotonic_ns()
    chunk = remote_chunk(Received(message, arrays, now_ns), now_ns)
    return getattr(message, "sid", ""), chunk
