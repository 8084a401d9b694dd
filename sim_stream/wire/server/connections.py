"""Which connections a server's sockets have, and what one may take: libzmq bounds neither.

libzmq holds the parts of a message until the last one comes, however many, and accepts connections
until no descriptor is left. Here its monitors say who came and went. While data comes, a thread
looks every ``LOOK_S`` at what each connection has brought since its last whole message, by the
kernel's count of bytes, so that encryption does not matter; beyond ``limit`` it is cut off. Beyond
``most`` connections the longest of those that never sent a message makes room.

Linux alone; and bytes are counted for TCP alone, since a Unix socket has no such count. Knows no
messages.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import parse_monitor_message

from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.wire.server.descriptors import Probe, connections_allowed, inode_of
from sim_stream.wire.server.dispatch import Counters
from sim_stream.wire.server.rates import RateLimit
from sim_stream.wire.server.worker import Context, Wake

log = logging.getLogger(__name__)

LOOK_S = 0.01
# Beyond the largest message: what its parts are wrapped in, and the handshake.
SLACK_BYTES = 256 * 1024
# Where the I/O thread never finds its sockets empty: having taken so many messages, or one for each
# connection, it has come round to all of them.
READS_PER_TURN = 64
# How often it is looked whether descriptors are left.
BREATH_S = 1.0
LOGGED_PER_S = 1.0
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED


@dataclass(eq=False)
class Connection:
    """``heard``: it has sent a message. ``whole``: another one since the last look, at which it had
    brought ``base`` bytes in all. ``over``: how far the I/O thread was when it was first seen
    beyond the limit. ``topics``: what it is subscribed to. ``announced``: the monitor has said that
    it came, so what it says next of that descriptor is about this one. ``gone``: ended or cut off;
    what was on its way still comes, and counts for nothing.
    """

    descriptor: int
    inode: int
    announced: bool = False
    heard: bool = False
    gone: bool = False
    whole: bool = False
    base: int = 0
    over: tuple[int, int] | None = None
    topics: set[bytes] = field(default_factory=set)
    refused: int = 0


class Connections:
    """The I/O thread says what it ``took`` and when it found nothing more (``idle``), for which it
    is rung. ``evicted``, ``cut``: how many were cut off, to make room or for what they sent.
    """

    def __init__(self, limit: int, errors: InternalErrors | None = None) -> None:
        self._resort = LastResort("connections", errors or InternalErrors())
        self.limit = limit
        self.evicted = 0
        self.cut = 0
        self.topics = 0
        self._most = self._most_ever = 0
        self._lock = threading.Lock()
        self._known: dict[int, Connection] = {}  # by descriptor
        self._silent: dict[int, Connection] = {}  # by inode, the oldest first
        self._live = 0
        self._idles = self._reads = 0
        self._monitors: list[zmq.Socket[bytes]] = []
        self._probe = Probe()
        self._data = select.epoll()
        self._stop = os.eventfd(0)
        self._logged = RateLimit(LOGGED_PER_S)
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return self._live

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket is bound, and before ``start``."""
        where = f"inproc://sim-stream-monitor-{len(self._monitors)}"
        monitor = socket.context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.rcvhwm = 0  # a full queue would hold up libzmq's own thread
        socket.monitor(where, _EVENTS)
        monitor.connect(where)
        self._monitors.append(monitor)

    def start(self, context: Context, max_sessions: int) -> None:
        """Once everything else that a server opens is open."""
        self._most = self._most_ever = connections_allowed(max_sessions)
        self._thread = threading.Thread(
            target=self._run, args=(context,), name="connections", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """After the watched sockets are closed, or instead of ``start``."""
        if self._thread is not None:
            os.eventfd_write(self._stop, 1)
            self._thread.join()
        for monitor in self._monitors:
            monitor.close()
        self._data.close()
        self._probe.close()
        os.close(self._stop)

    # The I/O thread.

    def took(self, frame: zmq.Frame) -> Connection | None:
        """A whole message was received; who sent it, by its first frame. None: gone meanwhile."""
        self._reads += 1
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # libzmq's own message, or an inproc peer's
            return None
        connection = self._came(descriptor)
        if connection is None or connection.gone:
            return None
        connection.whole = True
        if not connection.heard:
            connection.heard = True
            with self._lock:
                self._silent.pop(connection.inode, None)
        return connection

    def idle(self) -> None:
        """Nothing more waits in the sockets: what has come whole is taken."""
        self._idles += 1

    def count(self, counters: Counters) -> None:
        counters.connections = self._live
        counters.cut, counters.evicted = self.cut, self.evicted

    def hold(self, connection: Connection, topic: bytes) -> None:
        with self._lock:
            if not connection.gone and topic not in connection.topics:
                connection.topics.add(topic)
                self.topics += 1

    def release(self, connection: Connection, topic: bytes) -> bool:
        """Whether it was held."""
        with self._lock:
            if connection.gone or topic not in connection.topics:
                return False
            connection.topics.remove(topic)
            self.topics -= 1
            return True

    # Both threads.

    def cut_off(self, connection: Connection, why: str) -> None:
        """libzmq frees what it holds of it. Idempotent."""
        if self._end(connection):
            self.cut += 1
            self._shut(connection)
            self._say("cut off a connection: %s", why)

    def _came(self, descriptor: int, *, announced: bool = False) -> Connection | None:
        inode = inode_of(descriptor)
        if inode is None:  # closed again
            return None
        with self._lock:
            known = self._known.get(descriptor)
            if known is not None and known.inode == inode:
                known.announced |= announced
                return known
            connection = Connection(descriptor, inode, announced)
            self._known[descriptor] = self._silent[inode] = connection
            self._live += 1
        if known is not None:
            self._end(known)
        with suppress(OSError):  # closed meanwhile
            self._data.register(descriptor, select.EPOLLIN | select.EPOLLET)
        return connection

    def _end(self, connection: Connection) -> bool:
        """False: it had been ended already."""
        with self._lock:
            if connection.gone:
                return False
            connection.gone = True
            self._silent.pop(connection.inode, None)
            self._live -= 1
            self.topics -= len(connection.topics)
            return True

    def _shut(self, connection: Connection) -> None:
        self._probe.shut(connection.descriptor, connection.inode)

    def _say(self, what: str, *details: object) -> None:
        if not self._logged.wait_s(b"", time.monotonic_ns()):
            log.warning(what, *details)

    # This one's thread.

    def _run(self, context: Context) -> None:
        quiet, all_events = select.poll(), select.poll()
        for poller in (quiet, all_events):
            poller.register(self._stop, select.POLLIN)
            for monitor in self._monitors:
                poller.register(monitor.fileno(), select.POLLIN)
        all_events.register(self._data, select.POLLIN)
        look_s = breath_s = 0.0
        with Wake(context) as bell:
            with self._resort.around("the watch's beginning"):
                for monitor in self._monitors:  # it wakes nobody who has not yet found it empty
                    self._hear(monitor)
            while True:
                left_s = look_s - time.monotonic()
                poller, patience_s = (quiet, left_s) if left_s > 0 else (all_events, BREATH_S)
                happened = {descriptor for descriptor, _ in poller.poll(patience_s * 1e3)}
                if self._stop in happened:
                    return
                try:
                    if self._data.fileno() in happened:
                        look_s = time.monotonic() + LOOK_S
                    if self._go_round(look=self._data.fileno() in happened):
                        bell.ring()
                    if time.monotonic() > breath_s:
                        breath_s = time.monotonic() + BREATH_S
                        self._breathe()
                except Exception as error:  # unheard, the monitors' queues would grow
                    self._resort.caught(error, "the watch over connections")
                    time.sleep(self._resort.pause_s())
                else:
                    self._resort.well()

    def _go_round(self, *, look: bool) -> bool:
        """Whether the I/O thread is to be rung."""
        for monitor in self._monitors:
            self._hear(monitor)
        return look and any([self._look(descriptor) for descriptor, _ in self._data.poll(0)])

    def _hear(self, monitor: zmq.Socket[bytes]) -> None:
        with suppress(zmq.Again):
            while True:
                event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
                descriptor = int(event["value"])
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._came(descriptor, announced=True)
                    self._make_room()
                else:
                    self._left(descriptor)

    def _left(self, descriptor: int) -> None:
        left = self._known.get(descriptor)
        if left is not None and left.announced:  # or it is a later one that has that number now
            del self._known[descriptor]
            self._end(left)

    def _make_room(self) -> None:
        while self._live > self._most:
            with self._lock:
                oldest = next(iter(self._silent.values()), None)
            if oldest is None or not self._end(oldest):
                return
            self.evicted += 1
            self._shut(oldest)
            self._say("%d connections: cut off one that has sent nothing", self._most)

    def _breathe(self) -> None:
        """Files, too, take descriptors: where none is left, fewer connections may stay."""
        try:
            os.close(os.dup(self._stop))
        except OSError:
            self._most = max(1, min(self._most, self._live) - 1)
            self._make_room()
        else:
            self._most = min(self._most + 1, self._most_ever)

    def _look(self, descriptor: int) -> bool:
        """Whether it may have to be cut off, which the I/O thread's next turn decides."""
        connection = self._known.get(descriptor)
        if connection is None or connection.gone:
            return False
        received = self._probe.received(descriptor, connection.inode)
        if received is None:
            return False
        if connection.whole:
            connection.whole, connection.base, connection.over = False, received, None
            return False
        if received - connection.base <= self.limit:
            return False
        if connection.over is None:
            connection.over = (self._idles, self._reads)
        elif self._came_round(*connection.over):
            self.cut_off(connection, f"more than {self.limit} bytes of a message that never ends")
            return False
        return True

    def _came_round(self, idles: int, reads: int) -> bool:
        """Whether a message that was whole then would have been taken by now."""
        turn = min(self._live, READS_PER_TURN)
        return self._idles > idles or self._reads - reads >= turn
