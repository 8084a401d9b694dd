"""The viewers' socket: frames go out, subscriptions come in, of which each viewer has a few.

A PUB socket takes any number of topics of any size, and libzmq spends some 50 bytes on each byte of
them. This one is an XPUB that asks for each, where connections are watched (Linux; elsewhere only a
topic's size is bounded). A topic is a session's id, or "" for all. Belongs to the I/O thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import zmq

from sim_stream.wire import framing
from sim_stream.wire.framing import Buffer
from sim_stream.wire.server.rates import RateLimit

if TYPE_CHECKING:
    from sim_stream.wire.server.connections import Connection, Connections

log = logging.getLogger(__name__)

# As long as a sid may be (bridge/PROTOCOL.md).
TOPIC_BYTES = 64
TOPICS_PER_VIEWER = 64
TOPICS = 4096
# libzmq remembers what was refused, too: so many more, and the viewer is cut off.
REFUSED_PER_VIEWER = 64
CHANGES_PER_S, CHANGES_AT_ONCE_S = 100.0, 5.0
# The handshake's messages must fit as well, CURVE's largest has some 300 bytes.
MESSAGE_BYTES = 512
# What a viewer may have waiting in the kernel: it is read long before a viewer can be cut off.
RECEIVE_BUFFER_BYTES = 16 * 1024
# Frames that wait for one viewer; what does not fit is dropped, never waited for.
QUEUE = 8
PER_ROUND = 64
LOGGED_PER_S = 1.0


def publisher(context: zmq.Context[zmq.Socket[bytes]], *, asks: bool) -> zmq.Socket[bytes]:
    """An unbound socket for ``Viewers``; ``asks``: with a watch over its connections."""
    socket = context.socket(zmq.XPUB if asks else zmq.PUB)
    socket.linger = 0
    if asks:
        socket.set(zmq.XPUB_MANUAL, 1)
    socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES)
    socket.set(zmq.RCVBUF, RECEIVE_BUFFER_BYTES)
    socket.set_hwm(QUEUE)
    return socket


class Viewers:
    """``refused``: topics that were."""

    def __init__(self, socket: zmq.Socket[bytes], connections: Connections | None) -> None:
        self.socket = socket
        self.refused = 0
        self._connections = connections
        self._changes = RateLimit(CHANGES_PER_S, burst_s=CHANGES_AT_ONCE_S)
        self._logged = RateLimit(LOGGED_PER_S)

    def show(self, topic: bytes, parts: Sequence[Buffer]) -> None:
        """To all who subscribed to it and have room."""
        framing.send(self.socket, [topic, *parts], flags=zmq.NOBLOCK)

    def serve(self) -> None:
        """Some of the subscriptions that wait."""
        if self._connections is None:
            return
        for _ in range(PER_ROUND):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            viewer = self._connections.took(frame)
            if viewer is not None:
                self._hear(viewer, frame)

    def _hear(self, viewer: Connection, frame: zmq.Frame) -> None:
        assert self._connections is not None
        kind, topic = frame.bytes[:1], frame.bytes[1:]
        if frame.more or kind not in (b"\0", b"\1"):
            self._connections.cut_off(viewer, "a viewer that sends something")
        elif self._changes.wait_s(str(viewer.inode).encode(), time.monotonic_ns()):
            self._connections.cut_off(
                viewer, f"a viewer that changes its topics {CHANGES_PER_S:g} times a second"
            )
        elif kind == b"\1":
            self._subscribe(viewer, topic)
        elif self._connections.release(viewer, topic):
            self.socket.set(zmq.UNSUBSCRIBE, topic)
        else:
            viewer.refused = max(0, viewer.refused - 1)

    def _subscribe(self, viewer: Connection, topic: bytes) -> None:
        """``set`` is about the connection whose message was received last."""
        assert self._connections is not None
        if topic in viewer.topics:
            return
        refusal = self._refusal(viewer, topic)
        if refusal is None:
            self._connections.hold(viewer, topic)
            self.socket.set(zmq.SUBSCRIBE, topic)
            return
        self.refused += 1
        viewer.refused += 1
        if viewer.refused > REFUSED_PER_VIEWER:
            self._connections.cut_off(viewer, f"a viewer; {refusal}")
        elif not self._logged.wait_s(b"", time.monotonic_ns()):
            log.warning("refused a topic: %s", refusal)

    def _refusal(self, viewer: Connection, topic: bytes) -> str | None:
        assert self._connections is not None
        if len(topic) > TOPIC_BYTES:
            return f"topic: got {len(topic)} bytes; allowed: {TOPIC_BYTES} bytes, a sid or nothing"
        if len(viewer.topics) >= TOPICS_PER_VIEWER:
            return f"topics: allowed: {TOPICS_PER_VIEWER} of one viewer"
        if self._connections.topics >= TOPICS:
            return f"topics: allowed: {TOPICS} of all viewers"
        return None
