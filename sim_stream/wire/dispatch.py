"""Requests in, jobs for the engine and replies out: the server's rules without its sockets.

Every request is checked here, completely, before the engine hears of it; what is refused changes
nothing. Used by the I/O thread alone, hence without locks. Knows no sockets, threads or pixels.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sim_stream.errors import ProtocolError
from sim_stream.wire import codec
from sim_stream.wire.admission import Admission
from sim_stream.wire.archive import Archive, sign, signed_sid
from sim_stream.wire.faults import Refusal
from sim_stream.wire.framing import Arrays, Buffer, FramingLimits, Packet, check_sizes, unpack
from sim_stream.wire.jobs import Job, Pace, Result
from sim_stream.wire.ledger import SessionRecord, Waiter
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
from sim_stream.wire.observe import Exchange, Observer
from sim_stream.wire.openings import Openings, opening_digest
from sim_stream.wire.replies import addressed, remembered_reply, reply_to, viewers_copy
from sim_stream.wire.requests import (
    period_ns,
    require_actions,
    require_frames,
    require_no_arrays,
    require_offered,
)

# How long an opening waits for its recording to begin before it goes without.
HOLD_NS = 2_000_000_000
# Replies to the last closes, so that a close whose reply was lost can be asked again.
CLOSED_KEPT = 16


@dataclass(frozen=True)
class Outgoing:
    """A packet for one client, or, without a route, for every viewer."""

    route: bytes | None
    packet: Packet


@dataclass(frozen=True)
class Held:
    """A reply that waits until the recording would survive this process."""

    result: Result
    packet: Packet
    give_up_ns: int
    written: Future[bool] = field(default_factory=Future)


@dataclass
class Counters:
    """What ``status`` shows. The I/O loop writes the last two."""

    undelivered: int = 0
    progress: int = 0
    queued: int = 0


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
        self._sessions: dict[str, SessionRecord] = {}
        self._closed: OrderedDict[tuple[str, str], Packet] = OrderedDict()  # by owner and sid
        self._openings = Openings()
        self._held: list[Held] = []
        self._drops: list[Outgoing] = []

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
            return self._answer(request, arrays, Waiter(route, request.rid, user), recv_ns)
        except ProtocolError as error:
            refusal = Refusal(ErrorCode.BAD_MESSAGE, str(error))
        except Refusal as raised:
            refusal = raised
        committed_step = -1
        if self._owns(user, envelope.sid):
            committed_step = self._sessions[envelope.sid].committed_step
        return Packet(
            refusal.to_error(rid=envelope.rid, sid=envelope.sid, committed_step=committed_step)
        )

    def on_result(self, result: Result) -> Iterator[Outgoing]:
        """Replies, and what viewers get to see, for a job that has ended."""
        record = self._sessions[result.job.sid]
        packet = reply_to(
            result,
            queue_depth=max(len(record.in_flight) - 1, 0),
            dropped=record.dropped,
            now_ns=self.clock_ns(),
        )
        if self._begins_recording(result):
            held = Held(result, packet, self.clock_ns() + HOLD_NS)
            self._held.append(held)
            self._show(result, packet, held.written)
            return
        yield from self._finish(result, packet)
        self._show(result, packet)  # last, when the reply is on its way

    @property
    def holding(self) -> bool:
        """Whether ``release`` should be called soon."""
        return bool(self._held)

    def release(self) -> Iterator[Outgoing]:
        """Replies to steps that gave way, and those that waited for their recording.

        An opening that waited too long cannot be resumed; a reset waits on, lest a resumed session
        go on from before it.
        """
        drops, self._drops = self._drops, []
        yield from drops
        now_ns = self.clock_ns()
        for held in [*self._held]:
            written, request = held.written, held.result.job.request
            if not written.done() and (now_ns < held.give_up_ns or isinstance(request, Reset)):
                continue
            self._held.remove(held)
            packet, archive = held.packet, self.archive
            if isinstance(packet.message, Opened) and written.done() and written.result():
                assert archive is not None, "without an archive nothing is held"
                sid = held.result.job.sid
                token = sign(archive.key, sid, self._sessions[sid].owner)
                message = msgspec.structs.replace(packet.message, resume_token=token)
                packet = Packet(message, packet.arrays)
            yield from self._finish(held.result, packet)

    def _begins_recording(self, result: Result) -> bool:
        begins = isinstance(result.job.request, Open | Fork | Reset | Resume)
        recorded = self.archive is not None and self.observer is not None
        return begins and recorded and result.refusal is None

    def _finish(self, result: Result, packet: Packet) -> Iterator[Outgoing]:
        job, record = result.job, self._sessions[result.job.sid]
        waiters = [Waiter(job.route, job.request.rid)] if job.route is not None else []
        if isinstance(job.request, Step):
            kept = packet if result.refusal is None else None
            waiters = record.finish(job.request.step, result.committed_step, kept)
        else:
            if isinstance(job.request, Open | Fork | Resume):
                waiters = self._openings.finish(job.sid, packet if result.refusal is None else None)
            self._finish_control(record, result, packet)
        for waiter in waiters:
            yield Outgoing(waiter.route, addressed(packet, waiter.rid))
        if result.info is not None:
            yield Outgoing(None, viewers_copy(packet))

    def _show(self, result: Result, packet: Packet, written: Future[bool] | None = None) -> None:
        if self.observer is None:
            return
        job, reply = result.job, packet.message
        assert isinstance(reply, Opened | FrameMessage | Closed | Error)
        self.observer(
            Exchange(
                info=self.info,
                sid=job.sid,
                request=job.request,
                reply=reply,
                frames=job.frames,
                image=result.image,
                past=result.past,
                written=written,
            )
        )

    def expire(self) -> list[str]:
        """Closes sessions whose lease ran out; their sids."""
        now_ns = self.clock_ns()
        expired: list[str] = []
        for record in self._sessions.values():
            if record.idle and now_ns - record.last_seen_ns > self.lease_ns:
                job = Job(sid=record.sid, request=Close(sid=record.sid), t_recv_ns=now_ns)
                if self.submit(job):
                    record.control = record.closing = True
                    expired.append(record.sid)
        return expired

    def _answer(
        self, request: Request, arrays: Arrays, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        if not isinstance(request, Open | Reset):
            require_no_arrays(arrays)
        match request:
            case Hello():
                return Packet(self._hello(request))
            case Heartbeat():
                return Packet(self._status(request, waiter, recv_ns))
            case Open():
                self._require_running()
                return self._open(request, arrays, waiter, recv_ns)
            case Resume():
                self._require_running()
                return self._resume(request, waiter, recv_ns)
            case Close() if not self._owns(waiter.user, request.sid):
                return self._closed_before(request, waiter)
        record = self._record(request.sid, waiter, recv_ns)
        self._require_running()
        if record.closing and not isinstance(request, Close):
            raise Refusal(ErrorCode.NO_SESSION, f"sid: got {request.sid!r}; it is being closed")
        if isinstance(request, Step):
            return self._step(record, request, waiter, recv_ns)
        if isinstance(request, Fork):
            return self._fork(record, request, waiter, recv_ns)
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
            committed_step = self._record(request.sid, waiter, recv_ns).committed_step
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
        )

    def _open(self, request: Open, arrays: Arrays, waiter: Waiter, recv_ns: int) -> Packet | None:
        require_offered(request, self.info)
        frames = require_frames(request, arrays, self.info)
        if request.record and self.archive is None:
            raise Refusal(ErrorCode.LIMIT, "record: got true; this server does not record")
        digest = opening_digest(request, frames) if request.open_key else b""
        known = self._openings.recall(request.open_key, digest, waiter)
        if isinstance(known, Packet):
            return addressed(known, waiter.rid)
        if not known:
            job = self._admit(request, waiter, recv_ns, frames=frames)
            self._openings.begin(request.open_key, digest, job.sid, waiter)
            self._sessions[job.sid].realtime = request.mode == "realtime"
        return None

    def _fork(
        self, parent: SessionRecord, request: Fork, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        digest = opening_digest(request, None) if request.open_key else b""
        known = self._openings.recall(request.open_key, digest, waiter)
        if isinstance(known, Packet):
            return addressed(known, waiter.rid)
        if not known:
            parent.require_no_control()
            job = self._admit(request, waiter, recv_ns)
            self._openings.begin(request.open_key, digest, job.sid, waiter)
            self._sessions[job.sid].realtime = parent.realtime
        return None

    def _resume(self, request: Resume, waiter: Waiter, recv_ns: int) -> Packet | None:
        if self.archive is None:
            raise Refusal(ErrorCode.LIMIT, "resume: this server does not record its sessions")
        sid = signed_sid(self.archive.key, request.resume_token, waiter.user)
        record = self._sessions.get(sid)
        if record is None:
            if (waiter.user, sid) in self._closed:
                raise Refusal(ErrorCode.NO_SESSION, "resume: the session was closed")
            self._admit(request, waiter, recv_ns, sid=sid)
            self._openings.begin("", b"", sid, waiter)
            return None
        if record.closing:
            raise Refusal(ErrorCode.NO_SESSION, "resume: the session is being closed")
        if self._openings.join(sid, waiter):
            return None
        record.require_no_control()
        record.last_seen_ns = recv_ns
        return Packet(
            Opened(
                rid=waiter.rid,
                sid=sid,
                committed_step=record.committed_step,
                resume_token=request.resume_token,
            )
        )

    def _step(
        self, record: SessionRecord, request: Step, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        known = record.recall(request, waiter)
        if isinstance(known, Packet):
            return addressed(known, waiter.rid)
        if known:
            return None
        require_actions("action", [request.action], self.info)
        record.require_room()
        pace = None
        if record.realtime:
            pace = Pace(period_ns=period_ns(self.info), ahead=record.max_in_flight)
        job = Job(sid=record.sid, request=request, t_recv_ns=recv_ns, route=waiter.route, pace=pace)
        given_way = self.supersede(job) if record.realtime else None
        if given_way is None:
            self._submit(job)
        else:
            self._drop(record, given_way)
        record.accept(request, waiter)
        return None

    def _drop(self, record: SessionRecord, job: Job) -> None:
        assert isinstance(job.request, Step)
        refusal = Refusal(
            ErrorCode.DROPPED, f"step {job.request.step}: a newer one came before the engine did"
        )
        for waiter in record.drop(job.request.step):
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
        frames = None
        if isinstance(request, Reset):
            frames = require_frames(request, arrays, self.info)
        self._submit(
            Job(
                sid=record.sid,
                request=request,
                t_recv_ns=recv_ns,
                route=waiter.route,
                frames=frames,
            )
        )
        record.control, record.closing = True, isinstance(request, Close)

    def _admit(
        self,
        request: Open | Fork | Resume,
        waiter: Waiter,
        recv_ns: int,
        *,
        frames: np.typing.NDArray[np.uint8] | None = None,
        sid: str | None = None,
    ) -> Job:
        """Sends a request for a session to the engine."""
        limits = self.info.limits
        if self.sessions >= limits.max_sessions:
            raise Refusal(
                ErrorCode.LIMIT, f"{limits.max_sessions} sessions are open; close one first"
            )
        mine = sum(record.owner == waiter.user for record in self._sessions.values())
        self.admission.admit_session(mine)
        sid = sid or secrets.token_hex(8)
        job = Job(sid=sid, request=request, t_recv_ns=recv_ns, route=waiter.route, frames=frames)
        self._submit(job)
        self._sessions[sid] = SessionRecord(
            sid, limits.max_in_flight, recv_ns, owner=waiter.user, control=True
        )
        return job

    def _submit(self, job: Job) -> None:
        if not self.submit(job):
            raise Refusal(ErrorCode.BUSY, "the engine's queue is full; try again")

    def _owns(self, user: str, sid: str) -> bool:
        record = self._sessions.get(sid)
        return record is not None and record.owner == user

    def _record(self, sid: str, waiter: Waiter, recv_ns: int) -> SessionRecord:
        record = self._sessions.get(sid)
        if record is None or record.owner != waiter.user:
            raise Refusal(ErrorCode.NO_SESSION, f"sid: got {sid!r}; unknown, closed or expired")
        record.last_seen_ns = recv_ns
        return record

    def _require_running(self) -> None:
        if self.shutting_down:
            raise Refusal(ErrorCode.SHUTTING_DOWN, "the server is shutting down")

    def _closed_before(self, request: Close, waiter: Waiter) -> Packet:
        kept = self._closed.get((waiter.user, request.sid))
        if kept is None:
            kept = Packet(Closed(sid=request.sid, committed_step=-1))
        return addressed(kept, request.rid)

    def _finish_control(self, record: SessionRecord, result: Result, packet: Packet) -> None:
        record.control, record.last_seen_ns = False, self.clock_ns()
        request, sid = result.job.request, record.sid
        if isinstance(request, Close):
            if result.refusal is not None and result.refusal.code is ErrorCode.SHUTTING_DOWN:
                return  # it never ran: steps before it may still be in the engine's hands
            del self._sessions[sid]
            self._openings.end(sid)
            self._closed[record.owner, sid] = packet
            while len(self._closed) > CLOSED_KEPT:
                self._closed.popitem(last=False)
        elif result.refusal is None:
            record.restart(result.committed_step)
            if result.past is not None:
                record.realtime = result.past.mode == "realtime"
            for one in result.remembered:
                record.remember(one.request, remembered_reply(sid, one))
        elif isinstance(request, Open | Fork | Resume):
            del self._sessions[sid]
