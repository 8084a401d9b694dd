"""Requests in, jobs for the engine and replies out: the server's rules without its sockets.

Every request is checked here, completely, before the engine hears of it; what is refused changes
nothing. Used by the I/O thread alone, hence without locks. Knows no sockets, threads or pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from sim_stream.errors import InvalidInput, ProtocolError
from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.wire import codec
from sim_stream.wire.framing import Arrays, Buffer, FramingLimits, Packet, check_sizes, unpack
from sim_stream.wire.inputs import read_start, read_step, require_no_arrays
from sim_stream.wire.messages import (
    VERSION,
    Close,
    Closed,
    Error,
    ErrorCode,
    Fork,
    FrameMessage,
    Heartbeat,
    Hello,
    HelloOk,
    Open,
    Opened,
    Request,
    Reset,
    Resume,
    Status,
    Step,
)
from sim_stream.wire.observe import Archive, Exchange, Observer
from sim_stream.wire.server import journal
from sim_stream.wire.server.admission import Admission
from sim_stream.wire.server.exactly_once import SessionRecord, Waiter, step_digest
from sim_stream.wire.server.jobs import Job, Pace, Refusal, Result
from sim_stream.wire.server.replies import HeldReplies, addressed, begins, reply_to, viewers_copy
from sim_stream.wire.server.rescue import Rescue, internal
from sim_stream.wire.server.sessions import Sessions, require_offered


@dataclass(frozen=True)
class Outgoing:
    """A packet for one client, or, without a route, for every viewer."""

    route: bytes | None
    packet: Packet


@dataclass
class Counters:
    """What ``status`` and the metrics show. The I/O loop writes all but ``errors``, which counts
    refusals by their code, and ``internal``: what escaped from the server's loops."""

    undelivered: int = 0
    progress: int = 0
    queued: int = 0
    sessions: int = 0
    connections: int = 0
    cut: int = 0
    evicted: int = 0
    refused_topics: int = 0
    errors: Counter[ErrorCode] = field(default_factory=Counter)
    internal: InternalErrors = field(default_factory=InternalErrors)


@dataclass
class Dispatcher:
    """``submit`` hands a job to the engine and says False when its queue is full; ``supersede``
    puts a realtime step in the place of one that waits, and hands that back.

    A session is its owner's: to all other keys there is no such session. With an ``archive``, which
    ``observer`` writes, sessions can be resumed.
    """

    info: HelloOk
    submit: Callable[[Job], bool]
    lease_ns: int
    clock_ns: Callable[[], int]
    observer: Observer | None = None
    archive: Archive | None = None
    supersede: Callable[[Job], Job | None] = lambda job: None
    admission: Admission = field(default_factory=Admission)
    counters: Counters = field(default_factory=Counters)
    shutting_down: bool = False

    def __post_init__(self) -> None:
        limits = self.info.limits
        self._framing = FramingLimits(
            message_bytes=limits.message_bytes,
            header_bytes=limits.header_bytes,
            parts=limits.parts,
        )
        self._sessions = Sessions(self.info, self.submit, self.admission, self.archive)
        self._rescue = Rescue(self._sessions, self.counters.internal)
        self._observing = LastResort("observer", self.counters.internal)
        self._held = HeldReplies()
        self._drops: list[Outgoing] = []
        self._owed: set[tuple[bytes, int]] = set()  # replies still to come: route and rid

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def on_request(
        self, route: bytes, parts: Sequence[Buffer], recv_ns: int, user: str = ""
    ) -> Packet | None:
        """The reply to a request of that user, or None when the engine has it now."""
        not_taken = self.admission.refusal(route, user, recv_ns)
        envelope = codec.Envelope(t="", v=VERSION)
        try:
            check_sizes(parts, self._framing)
            envelope = codec.decode_envelope(parts[0])
            if not_taken is not None:
                raise not_taken
            if envelope.v != VERSION:
                raise Refusal(ErrorCode.VERSION, f"v: got {envelope.v}; allowed: {VERSION}")
            request = codec.decode_request(parts[0])
            arrays = unpack(request.arrays, parts[1:])
            answer = self._answer(request, arrays, Waiter(route, request.rid, user), recv_ns)
            if answer is None:
                self._owed.add((route, request.rid))
            return answer
        except (ProtocolError, InvalidInput) as error:
            refusal = Refusal(ErrorCode.BAD_MESSAGE, str(error))
        except Refusal as raised:
            refusal = raised
        committed_step = -1
        if self._sessions.owns(user, envelope.sid):
            committed_step = self._sessions[envelope.sid].committed_step
        reply = refusal.to_error(rid=envelope.rid, sid=envelope.sid, committed_step=committed_step)
        self.counters.errors[refusal.code] += 1
        journal.refused(reply, envelope.t)
        return Packet(reply)

    def on_result(self, result: Result) -> Iterator[Outgoing]:
        """Replies, and what viewers get to see, for a job that has ended."""
        if self._sessions.condemned(result):
            yield from self._cleared(result)
            return
        record, now_ns = self._sessions[result.job.sid], self.clock_ns()
        # A reply may take longer than the lease: its client could not know that it was over.
        record.last_seen_ns = now_ns
        journal.ended(result)
        if result.refusal is not None:
            self.counters.errors[result.refusal.code] += 1
        queue_depth = max(len(record.in_flight) - 1, 0)
        packet = reply_to(result, queue_depth=queue_depth, dropped=record.dropped, now_ns=now_ns)
        if self.archive is not None and self.observer is not None and begins(result):
            self._show(result, packet, self._held.hold(result, packet, now_ns))
            return
        yield from self._finish(result, packet)
        self._show(result, packet)  # last, when the reply is on its way

    @property
    def holding(self) -> bool:
        """Whether ``release`` should be called soon."""
        return len(self._held) > 0

    def release(self) -> Iterator[Outgoing]:
        """Replies to steps that were superseded, and those that waited for their recording."""
        drops, self._drops = self._drops, []
        yield from drops
        for result, packet, written in [*self._held.due(self.clock_ns())]:
            try:
                if written and isinstance(packet.message, Opened):
                    packet = self._sessions.with_token(packet)
                yield from self._finish(result, packet)
            except Exception as error:  # the others' replies leave all the same
                yield from self.after_result(error, result)

    def after_request(
        self, error: Exception, route: bytes, parts: Sequence[Buffer], user: str
    ) -> Iterator[Outgoing]:
        """What to send after ``on_request`` failed."""
        return self._rescued(self._rescue.request(error, Waiter(route, 0, user), parts))

    def after_result(self, error: Exception, result: Result) -> Iterator[Outgoing]:
        """What to send after ``on_result`` failed."""
        return self._rescued(self._rescue.result(error, result))

    def _rescued(self, replies: Iterable[tuple[Waiter, Packet]]) -> Iterator[Outgoing]:
        for waiter, packet in replies:
            self.counters.errors[ErrorCode.INTERNAL] += 1
            yield Outgoing(waiter.route, packet)

    def _cleared(self, result: Result) -> Iterator[Outgoing]:
        """A job of a session that had been condemned before it ended."""
        job = result.job
        if job.route is not None and isinstance(job.request, Reset | Close):
            yield Outgoing(job.route, internal("the session has ended", job.request.rid, job.sid))
        if isinstance(job.request, Close):
            self._show(result, internal("the server lost track of the session", 0, job.sid))

    def _finish(self, result: Result, packet: Packet) -> Iterator[Outgoing]:
        request = result.job.request
        if isinstance(request, Step):
            kept = packet if result.refusal is None else None
            record = self._sessions[result.job.sid]
            waiters = record.finish(request.step, result.committed_step, kept)
        else:
            waiters = self._sessions.complete(result, packet)
        for waiter in waiters:
            self._owed.discard((waiter.route, waiter.rid))
            yield Outgoing(waiter.route, addressed(packet, waiter.rid))
        if result.infos:
            yield Outgoing(None, viewers_copy(packet))

    def _show(self, result: Result, packet: Packet, written: Future[bool] | None = None) -> None:
        if self.observer is None:
            return
        job, reply = result.job, packet.message
        assert isinstance(reply, Opened | FrameMessage | Closed | Error)
        exchange = Exchange(
            info=self.info,
            sid=job.sid,
            request=job.request,
            reply=reply,
            arrays=job.arrays,
            images=result.images,
            past=result.past,
            written=written,
        )
        try:
            self.observer(exchange)
        except Exception as error:  # it breaks its word, and nobody's session need know
            self._observing.caught(error, f"what watches {job.kind} {job.sid}", job.ids)
            if written is not None and not written.done():
                written.set_result(False)

    def expire(self) -> list[str]:
        """Closes sessions whose lease ran out; their sids."""
        self._sessions.clear_away()
        return self._sessions.expire(self.clock_ns(), self.lease_ns)

    def _answer(
        self, request: Request, arrays: Arrays, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        if not isinstance(request, Open | Reset | Step):
            require_no_arrays(arrays)
        match request:
            case Hello():
                return Packet(self._hello(request))
            case Heartbeat():
                return Packet(self._status(request, waiter, recv_ns))
            case Open():
                self._require_running()
                require_offered(request, self.info)
                start = read_start(self.info.spec, request, arrays)
                return self._sessions.open(request, start, arrays, waiter, recv_ns)
            case Resume():
                self._require_running()
                return self._sessions.resume(request, waiter, recv_ns)
            case Close() if request.idempotency_key and not request.sid:
                return self._sessions.withdraw(request, waiter)
            case Close() if not self._sessions.owns(waiter.user, request.sid):
                return self._sessions.closed_before(request, waiter)
        record = self._sessions.seen(request.sid, waiter, recv_ns)
        self._require_running()
        if record.closing and not isinstance(request, Close):
            raise Refusal(ErrorCode.NO_SESSION, f"sid: got {request.sid!r}; it is being closed")
        if isinstance(request, Step):
            return self._step(record, request, arrays, waiter, recv_ns)
        if isinstance(request, Fork):
            return self._sessions.fork(record, request, waiter, recv_ns)
        self._control(record, request, arrays, waiter, recv_ns)
        return None

    def _hello(self, request: Hello) -> HelloOk:
        if not request.protocol_min <= VERSION <= request.protocol_max:
            offered = f"{request.protocol_min}..{request.protocol_max}"
            raise Refusal(ErrorCode.VERSION, f"protocol: got {offered}; allowed: {VERSION}")
        return msgspec.structs.replace(self.info, rid=request.rid)

    def _status(self, request: Heartbeat, waiter: Waiter, recv_ns: int) -> Status:
        committed_step = -1
        if request.sid:
            committed_step = self._sessions.seen(request.sid, waiter, recv_ns).committed_step
        return Status(
            rid=request.rid,
            progress=self.counters.progress,
            queued=self.counters.queued,
            sessions=self.sessions,
            undelivered=self.counters.undelivered,
            committed_step=committed_step,
            client_send_ns=request.client_send_ns,
            srv_recv_ns=recv_ns,
            srv_send_ns=self.clock_ns(),
            server_epoch=self.info.server_epoch,
            pending=request.awaiting if (waiter.route, request.awaiting) in self._owed else 0,
        )

    def _step(
        self, record: SessionRecord, request: Step, arrays: Arrays, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        digest = step_digest(request, arrays)
        known = record.recall(request.step, digest, waiter)
        if isinstance(known, Packet):
            return addressed(known, waiter.rid)
        if known:
            return None
        inputs = read_step(self.info.spec, request, arrays)
        record.require_room()
        pace = None
        if record.realtime:
            pace = Pace(period_ns=self.info.spec.period_ns, ahead=record.max_in_flight)
        job = Job(
            sid=record.sid,
            request=request,
            t_recv_ns=recv_ns,
            route=waiter.route,
            inputs=inputs,
            arrays=arrays,
            pace=pace,
        )
        superseded = self.supersede(job) if record.realtime else None
        if superseded is None:
            self._sessions.submit(job)
        else:
            self._drop(record, superseded)
        record.accept(request.step, digest, waiter)
        return None

    def _drop(self, record: SessionRecord, job: Job) -> None:
        assert isinstance(job.request, Step)
        refusal = Refusal(
            ErrorCode.DROPPED, f"step {job.request.step}: a newer one came before the engine did"
        )
        self.counters.errors[ErrorCode.DROPPED] += 1
        for waiter in record.drop(job.request.step):
            self._owed.discard((waiter.route, waiter.rid))
            error = refusal.to_error(
                rid=waiter.rid, sid=record.sid, committed_step=record.committed_step
            )
            self._drops.append(Outgoing(waiter.route, Packet(error)))

    def _control(
        self,
        record: SessionRecord,
        request: Reset | Close,
        arrays: Arrays,
        waiter: Waiter,
        recv_ns: int,
    ) -> None:
        record.require_no_control()
        start = None
        if isinstance(request, Reset):
            start = read_start(self.info.spec, request, arrays)
        job = Job(
            sid=record.sid,
            request=request,
            t_recv_ns=recv_ns,
            route=waiter.route,
            start=start,
            arrays=arrays,
        )
        self._sessions.submit(job)
        record.control, record.closing = True, isinstance(request, Close)

    def _require_running(self) -> None:
        if self.shutting_down:
            raise Refusal(ErrorCode.SHUTTING_DOWN, "the server is shutting down")
