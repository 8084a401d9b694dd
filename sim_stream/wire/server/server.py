"""``StreamServer``: opens sessions of one model to clients over ZeroMQ.

    clients <- ROUTER - I/O thread -> engine thread -> decoder thread -+
                            ^---------- results, inproc ---------------+

Serves any ``stream_model.StreamModel``; of a model it reads the spec alone. Without a guard
(``auth.Guard``: encryption and an allow-list) it binds to this machine only.
"""

from __future__ import annotations

import logging
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import msgspec
import zmq

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.last_resort import InternalErrors
from sim_stream.spec import StreamSpec
from sim_stream.stop_signals import heard_signals
from sim_stream.stream_model import StreamModel
from sim_stream.wire.framing import HEADER_BYTES, PARTS, FramingLimits
from sim_stream.wire.messages import VERSION, HelloOk, ServerLimits
from sim_stream.wire.observe import RESUME_STEPS, Archive, Observer
from sim_stream.wire.server import ipc_path, viewers
from sim_stream.wire.server.admission import Admission
from sim_stream.wire.server.auth import Guard, require_bindable
from sim_stream.wire.server.dispatch import Counters, Dispatcher
from sim_stream.wire.server.doorkeeper import Doorkeeper, guard_door, seed_routing_ids
from sim_stream.wire.server.io_loop import IoLoop, Sockets
from sim_stream.wire.server.rates import REQUESTS_PER_S
from sim_stream.wire.server.worker import WAKE_ADDRESS, Context, EngineWorker, Wake

if TYPE_CHECKING:
    from sim_stream.wire.server.connections import Connections

log = logging.getLogger(__name__)

CLIENT_QUEUE = 64
LIVENESS_CHECK_S = 0.5
# How often a client that waits should ask whether this is still the server it knew.
HEARTBEAT_MS = 1000


class StreamServer:
    """Serves until stopped. ``publish`` adds a PUB socket that shows every frame to viewers.

    A session whose client is silent for ``lease_s`` is closed. ``observer`` sees every session's
    requests and replies (a recorder); from an ``archive`` that it writes, sessions are resumed
    after a restart. Port 0 binds a free port; see ``endpoint``. ``guard`` protects both sockets;
    then a session is its key's, and a key has ``max_sessions_per_key`` (None: all). A connection,
    or a key, may send ``requests_per_s``. ``counters`` may be read at any time; ``errors``, a part
    of them, counts what escaped from the server's loops. Raises InvalidInput for an address that is
    not this machine's without a guard.
    """

    def __init__(
        self,
        model: StreamModel,
        *,
        bind: str = "tcp://127.0.0.1:5555",
        publish: str | None = None,
        max_sessions: int = 4,
        max_in_flight: int = 2,
        lease_s: float = 60.0,
        stop_timeout_s: float = 10.0,
        observer: Observer | None = None,
        archive: Archive | None = None,
        guard: Guard | None = None,
        max_sessions_per_key: int | None = None,
        requests_per_s: float = REQUESTS_PER_S,
        errors: InternalErrors | None = None,
    ) -> None:
        for name, count in (("max_sessions", max_sessions), ("max_in_flight", max_in_flight)):
            if count < 1:
                raise InvalidInput(name, count, "1 or more")
        Admission(guard, max_sessions_per_key, requests_per_s)  # every start has its own
        for name, seconds in (("lease_s", lease_s), ("stop_timeout_s", stop_timeout_s)):
            if not 0 < seconds < float("inf"):
                raise InvalidInput(name, seconds, "more than 0 seconds")
        guarded = guard is not None
        self._bind = require_bindable("bind", bind, guarded=guarded)
        self._publish = None
        if publish is not None:
            self._publish = require_bindable("publish", publish, guarded=guarded)
        self._guard = guard
        self._max_sessions_per_key = max_sessions_per_key
        self._requests_per_s = requests_per_s
        self._model = model
        self._info = describe(
            model.spec, max_sessions, max_in_flight, lease_s, resumable=archive is not None
        )
        self._lease_s = lease_s
        self._stop_timeout_s = stop_timeout_s
        self._observer = observer
        self.counters = Counters(internal=errors or InternalErrors())
        self._archive = archive
        self._context: Context | None = None
        self._door: Doorkeeper | None = None
        self._worker: EngineWorker | None = None
        self._io: IoLoop | None = None
        self._connections: Connections | None = None
        self._ipc_paths: list[ipc_path.IpcPath] = []
        self.endpoint = ""
        self.publish_endpoint = ""

    def __enter__(self) -> StreamServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Binds and serves in threads of its own. Raises Unavailable when an address is taken."""
        if self._io is not None:
            raise InvalidInput("start", "a running server", "a server that is not running")
        context: Context = zmq.Context()
        with ExitStack() as on_failure:
            on_failure.callback(context.destroy, linger=0)
            if self._guard is not None:
                self._guard.start(context, self.counters.internal)
                on_failure.callback(self._guard.stop)
            else:
                self._door = Doorkeeper(context, None, self.counters.internal)
                self._door.start()
                on_failure.callback(self._door.stop)
            on_failure.callback(self._leave_paths)
            connections = self._watched()
            if connections is not None:
                on_failure.callback(connections.stop)
            sockets = self._open_sockets(context, connections)
            on_failure.pop_all()
        info = msgspec.structs.replace(self._info, server_epoch=secrets.token_hex(8))
        limits = info.limits
        # Every step in flight, and one open, reset, fork or close of every session.
        depth = limits.max_sessions * (limits.max_in_flight + 1)
        worker = EngineWorker(
            self._model,
            context,
            depth=depth,
            max_in_flight=limits.max_in_flight,
            archive=self._archive,
            errors=self.counters.internal,
        )
        dispatcher = Dispatcher(
            info,
            worker.submit,
            round(self._lease_s * 1e9),
            time.monotonic_ns,
            observer=self._observer,
            archive=self._archive,
            supersede=worker.supersede,
            admission=Admission(self._guard, self._max_sessions_per_key, self._requests_per_s),
            counters=self.counters,
        )
        framing = FramingLimits(message_bytes=limits.message_bytes)
        self._context, self._worker, self._connections = context, worker, connections
        self._io = IoLoop(
            sockets,
            dispatcher,
            worker,
            framing,
            guarded=self._guard is not None,
            stop_timeout_s=self._stop_timeout_s,
        )
        if connections is not None:
            connections.start(context, limits.max_sessions)
        worker.start()
        self._io.start()
        shown = f", viewers at {self.publish_endpoint}" if self._publish else ""
        keys = "" if self._guard is None else f", {self._guard.allowed} clients' keys allowed"
        log.info("ready: %s serves %s%s%s", self.endpoint, self._info.spec.model_id, shown, keys)

    def stop(self) -> None:
        """Finishes the frame in hand, tells every client, and ends. Idempotent."""
        if self._io is None or self._worker is None or self._context is None:
            return
        self._leave_paths()
        self._io.request_stop()
        if self._io.is_alive():
            with Wake(self._context) as wake:
                wake.ring()
        self._io.join()
        if self._connections is not None:
            self._connections.stop()
        if self._guard is not None:
            self._guard.stop()
        elif self._door is not None:
            self._door.stop()
        if self._worker.join(timeout_s=0.5):
            self._context.term()
        else:  # a thread hangs in the engine; its socket can be freed only when it returns
            reaper = threading.Thread(
                target=_reap, args=(self._worker, self._context), name="reaper", daemon=True
            )
            reaper.start()
        self._io = self._worker = self._context = self._connections = None
        log.info("stopped: %s", self.endpoint)

    def serve_forever(self) -> None:
        """Serves until SIGINT, SIGTERM or SIGHUP (main thread only), then stops cleanly."""
        with _stop_signals() as signalled:
            self.start()
            try:
                while self._io is not None and self._io.is_alive():
                    if select.select([signalled], [], [], LIVENESS_CHECK_S)[0]:
                        return
                raise Unavailable("the server's I/O thread ended; see the log")
            finally:
                self.stop()

    def _watched(self) -> Connections | None:
        """Where connections can be watched, which is Linux."""
        if sys.platform != "linux":
            return None
        from sim_stream.wire.server.connections import SLACK_BYTES, Connections

        limit = self._info.limits.message_bytes + SLACK_BYTES
        return Connections(limit, self.counters.internal)

    def _open_sockets(self, context: Context, connections: Connections | None) -> Sockets:
        seed_routing_ids()
        router = context.socket(zmq.ROUTER)
        router.linger = 0
        router.set(zmq.ROUTER_MANDATORY, 1)
        # Bounds one part; the whole message is bounded by ``connections`` and the dispatcher.
        router.set(zmq.MAXMSGSIZE, self._info.limits.message_bytes)
        router.set_hwm(CLIENT_QUEUE)
        if self._guard is not None:
            self._guard.protect(router)
        else:
            guard_door(router)
        if connections is not None:
            connections.watch(router)
        self.endpoint = self._bind_to(router, self._bind)
        shown = None
        if self._publish is not None:
            publisher = viewers.publisher(context, asks=connections is not None)
            if self._guard is not None:
                self._guard.protect(publisher)
            if connections is not None:
                connections.watch(publisher)
            self.publish_endpoint = self._bind_to(publisher, self._publish)
            shown = viewers.Viewers(publisher, connections)
        wake = context.socket(zmq.PULL)
        wake.bind(WAKE_ADDRESS)
        return Sockets(router=router, wake=wake, viewers=shown, connections=connections)

    def _bind_to(self, zmq_socket: zmq.Socket[bytes], address: str) -> str:
        """The endpoint that was bound. Raises Unavailable."""
        if not ipc_path.is_ours(address):
            return _bind(zmq_socket, address)
        self._ipc_paths.append(ipc_path.IpcPath(zmq_socket, address))
        return zmq_socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _leave_paths(self) -> None:
        while self._ipc_paths:
            self._ipc_paths.pop().remove()


def describe(
    spec: StreamSpec,
    max_sessions: int,
    max_in_flight: int,
    lease_s: float,
    *,
    resumable: bool = False,
) -> HelloOk:
    """What ``hello`` is answered with."""
    return HelloOk(
        protocol=VERSION,
        server_epoch="",  # every start has its own
        spec=spec,
        limits=ServerLimits(
            header_bytes=HEADER_BYTES,
            parts=PARTS,
            message_bytes=HEADER_BYTES + spec.array_bytes,
            max_sessions=max_sessions,
            max_in_flight=max_in_flight,
        ),
        lease_ms=round(lease_s * 1e3),
        heartbeat_ms=max(1, min(HEARTBEAT_MS, round(lease_s * 1e3 / 3))),
        resume_steps=RESUME_STEPS if resumable else 0,
    )


def _bind(zmq_socket: zmq.Socket[bytes], address: str) -> str:
    """The endpoint that was bound. Raises Unavailable."""
    zmq_socket.set(zmq.IPV6, int("[" in address))
    try:
        zmq_socket.bind(address)
    except zmq.ZMQError as error:
        raise Unavailable(f"cannot bind {address}: {error.strerror}") from error
    return zmq_socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _reap(worker: EngineWorker, context: Context) -> None:
    worker.join(timeout_s=None)
    context.term()


@contextmanager
def _stop_signals() -> Iterator[socket.socket]:
    """A socket that becomes readable on SIGINT, SIGTERM or SIGHUP, unless that is ignored.

    A handler that set a ``threading.Event`` could dead-lock with the main thread's wait for it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidInput("serve_forever", "another thread", "the main thread; else start, stop")
    readable, writable = socket.socketpair()
    writable.setblocking(False)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if select.select([], [writable], [], 0)[1]:
            writable.send(b"x")

    previous = {s: signal.signal(s, on_signal) for s in heard_signals()}
    try:
        yield readable
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        readable.close()
        writable.close()
