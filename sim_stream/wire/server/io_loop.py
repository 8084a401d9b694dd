"""The thread that owns the server's sockets: reads requests, sends replies, feeds viewers.

ROUTER for clients, XPUB for viewers, PULL on which the engine's threads ring. Nothing here waits
for a slow peer: a reply that cannot be sent at once is counted and dropped (the session keeps it
for a repeated request), a viewer that does not keep up misses frames.

Whatever a request, a result or a peer brings about, the loop goes on: each is on its own, and what
escapes is answered by the dispatcher's last resort.

Knows no messages but the shutdown notice; rules are the dispatcher's.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from sim_stream.last_resort import LastResort
from sim_stream.wire import framing
from sim_stream.wire.framing import FramingLimits, Packet
from sim_stream.wire.messages import Error, ErrorCode
from sim_stream.wire.server.auth import user_of
from sim_stream.wire.server.dispatch import Dispatcher, Outgoing
from sim_stream.wire.server.jobs import Refusal, Result
from sim_stream.wire.server.rescue import UNFORESEEN, internal
from sim_stream.wire.server.viewers import Viewers
from sim_stream.wire.server.worker import EngineWorker

if TYPE_CHECKING:
    from sim_stream.wire.server.connections import Connections

log = logging.getLogger(__name__)

POLL_MS = 250
# While replies wait for their recording.
HOLDING_POLL_MS = 2
REQUESTS_PER_ROUND = 32
# Errors in the place of replies that could not be sent, and how often each is tried.
OWED_KEPT, OWED_TRIES = 256, 32
# How long nothing more is read after a request that came too soon: a flood waits in its own
# connection then and takes no processor, and everybody else waits so long for each flooder.
REST_MS = 2
# Clients that are told of the shutdown; who was silent for longer than this many others is not.
ROUTES_KEPT = 256
# How long a closing socket may take to deliver what it holds.
LINGER_MS = 500


@dataclass(frozen=True, kw_only=True)
class Sockets:
    router: zmq.Socket[bytes]
    wake: zmq.Socket[bytes]
    viewers: Viewers | None
    connections: Connections | None


class IoLoop(threading.Thread):
    """Runs until ``request_stop`` was called and the worker has finished the job in hand."""

    def __init__(
        self,
        sockets: Sockets,
        dispatcher: Dispatcher,
        worker: EngineWorker,
        limits: FramingLimits,
        *,
        guarded: bool,
        stop_timeout_s: float,
    ) -> None:
        super().__init__(name="sim-stream-io", daemon=True)
        self._sockets = sockets
        self._dispatcher = dispatcher
        self._worker = worker
        self._limits = limits
        self._guarded = guarded
        self._stop_timeout_s = stop_timeout_s
        self._stop_requested = threading.Event()
        self._routes: OrderedDict[bytes, None] = OrderedDict()
        self._owed: deque[tuple[Outgoing, int]] = deque(maxlen=OWED_KEPT)
        self._worker_done = False
        self._rest = False
        errors = dispatcher.counters.internal
        self._rounds, self._ticks = LastResort("io", errors), LastResort("tick", errors)
        self._rescues, self._deliveries = LastResort("io", errors), LastResort("delivery", errors)
        self._wake_only = zmq.Poller()
        self._wake_only.register(sockets.wake, zmq.POLLIN)

    def request_stop(self) -> None:
        """Takes effect within ``POLL_MS``, or at once when the caller rings the wake socket."""
        self._stop_requested.set()

    def run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._sockets.router, zmq.POLLIN)
        poller.register(self._sockets.wake, zmq.POLLIN)
        if self._sockets.viewers is not None and self._sockets.connections is not None:
            poller.register(self._sockets.viewers.socket, zmq.POLLIN)
        try:
            while not self._stop_requested.is_set():
                self._go_round(poller)
                self._watch_worker()
            self._drain(poller)
            self._send_shutdown_notices()
        finally:
            self._close()

    def _go_round(self, poller: zmq.Poller) -> None:
        """A round, or a rest after one that failed as a whole. Raises ContextTerminated."""
        try:
            self._round(poller)
        except zmq.ContextTerminated:
            raise
        except Exception as error:
            self._rounds.caught(error, "a round of the I/O thread")
            time.sleep(self._rounds.pause_s())
        else:
            self._rounds.well()

    def _watch_worker(self) -> None:
        """Without the engine's threads nobody would ever be answered: all are told, and a
        supervisor may start the next server."""
        if not self._worker.alive and not self._stop_requested.is_set():
            log.critical("a thread of the engine has ended; the server ends, too")
            self._stop_requested.set()

    def _round(self, poller: zmq.Poller) -> None:
        hurry = self._dispatcher.holding or self._owed
        patience_ms = HOLDING_POLL_MS if hurry else POLL_MS
        rested = self._rest
        ready = dict(self._wake_only.poll(REST_MS) if rested else poller.poll(patience_ms))
        self._rest = False
        if self._sockets.wake in ready:
            self._drain_wakes()
        self._deliver_results()
        if self._sockets.router in ready:
            self._serve_requests()
        elif self._sockets.connections is not None and not rested:
            with self._ticks.around("connections"):
                self._sockets.connections.idle()
        if self._sockets.viewers is not None and self._sockets.viewers.socket in ready:
            with self._ticks.around("subscriptions"):
                self._sockets.viewers.serve()
        self._pay_owed()
        with self._ticks.around("replies that were held"):
            for outgoing in self._dispatcher.release():
                self._deliver(outgoing)
        with self._ticks.around("leases that ran out"):
            self._dispatcher.expire()
        counters = self._dispatcher.counters
        counters.progress, counters.queued = self._worker.progress, self._worker.queued
        counters.sessions = self._dispatcher.sessions
        if self._sockets.connections is not None:
            with self._ticks.around("connections"):
                self._sockets.connections.count(counters)
        if self._sockets.viewers is not None:
            counters.refused_topics = self._sockets.viewers.refused

    def _drain(self, poller: zmq.Poller) -> None:
        """Lets the engine finish what it holds; queued jobs are refused, frames still leave."""
        self._dispatcher.shutting_down = True
        for job in self._worker.shut_down():
            refusal = Refusal(ErrorCode.SHUTTING_DOWN, "the server is shutting down")
            self._worker.results.put(Result(job=job, committed_step=-1, refusal=refusal))
        deadline_s = time.monotonic() + self._stop_timeout_s
        while not self._worker_done or self._dispatcher.holding:
            if time.monotonic() > deadline_s:
                log.warning("the engine did not finish within %g s", self._stop_timeout_s)
                return
            self._go_round(poller)

    def _drain_wakes(self) -> None:
        try:
            while True:
                self._sockets.wake.recv(zmq.NOBLOCK)
        except zmq.Again:
            return

    def _deliver_results(self) -> None:
        while True:
            try:
                result = self._worker.results.get_nowait()
            except queue.Empty:
                return
            if result is None:
                self._worker_done = True
                continue
            self._complete(result)

    def _complete(self, result: Result) -> None:
        try:
            for outgoing in self._dispatcher.on_result(result):
                self._deliver(outgoing)
        except Exception as escaped:
            error = escaped  # for the name of an exception ends with its block
            self._rescue(lambda: self._dispatcher.after_result(error, result))

    def _serve_requests(self) -> None:
        throttled = self._dispatcher.admission.throttled
        for _ in range(REQUESTS_PER_ROUND):
            try:
                first, *rest = framing.receive(self._sockets.router, self._limits, routed=True)
            except zmq.Again:
                return
            if self._sockets.connections is not None:
                with self._ticks.around("connections"):
                    self._sockets.connections.took(first)
            route, parts = first.bytes, framing.buffers(rest)
            self._routes[route] = None
            self._routes.move_to_end(route)
            if len(self._routes) > ROUTES_KEPT:
                self._routes.popitem(last=False)
            user = user_of(first) if self._guarded else ""
            self._answer(route, parts, user)
            if self._dispatcher.admission.throttled > throttled:
                self._rest = True
                return

    def _answer(self, route: bytes, parts: list[framing.Buffer], user: str) -> None:
        try:
            reply = self._dispatcher.on_request(route, parts, time.monotonic_ns(), user)
            if reply is not None:
                self._deliver(Outgoing(route, reply))
        except Exception as escaped:
            error = escaped
            self._rescue(lambda: self._dispatcher.after_request(error, route, parts, user))

    def _rescue(self, replies: Callable[[], Iterable[Outgoing]]) -> None:
        """The last resort's own last resort: those who wait may then wait in vain, no other."""
        with self._rescues.around("making up for a failure"):
            for outgoing in replies():
                self._deliver(outgoing)

    def _deliver(self, outgoing: Outgoing) -> None:
        """Never fails: a reply that cannot be sent as it is becomes an error to its client."""
        try:
            self._send(outgoing)
        except Exception as error:
            message = outgoing.packet.message
            sid = getattr(message, "sid", "")
            self._deliveries.caught(error, "a reply", {"sid": sid, "rid": message.rid})
            if outgoing.route is not None:
                told = internal(UNFORESEEN, message.rid, sid)
                self._owed.append((Outgoing(outgoing.route, told), OWED_TRIES))

    def _pay_owed(self) -> None:
        for _ in range(len(self._owed)):
            outgoing, left = self._owed.popleft()
            try:
                self._send(outgoing)
            except Exception as error:
                self._deliveries.caught(error, "an error in a reply's place")
                if left > 1:
                    self._owed.append((outgoing, left - 1))

    def _send(self, outgoing: Outgoing) -> None:
        viewers = self._sockets.viewers
        if outgoing.route is None and viewers is None:
            return
        packet = outgoing.packet
        parts = framing.pack(packet.message, packet.arrays)
        if outgoing.route is None:
            assert viewers is not None
            viewers.show(getattr(packet.message, "sid", "").encode(), parts)
            return
        try:
            framing.send(self._sockets.router, parts, route=outgoing.route, flags=zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # The client is gone (unroutable) or reads too slowly (its queue is full).
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._dispatcher.counters.undelivered += 1
            log.debug("reply dropped: %s", error)

    def _send_shutdown_notices(self) -> None:
        for route in self._routes:
            shutdown_notice = Error(
                code=ErrorCode.SHUTTING_DOWN,
                message="the server is shutting down",
                retryable=True,
            )
            self._deliver(Outgoing(route, Packet(shutdown_notice)))

    def _close(self) -> None:
        self._sockets.router.close(linger=LINGER_MS)
        self._sockets.wake.close(linger=0)
        if self._sockets.viewers is not None:
            self._sockets.viewers.socket.close(linger=0)
