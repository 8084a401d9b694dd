"""Requests in, jobs for the engine and replies out: the server's rules without its sockets.

Every request is checked here, completely, before the engine hears of it; what is refused changes
nothing. Used by the I/O thread alone, hence without locks. Knows no sockets, threads or pixels.
"""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sim_stream.errors import ProtocolError
from sim_stream.wire import codec, journal
from sim_stream.wire.admission import Admission
from sim_stream.wire.faults import Refusal
from sim_stream.wire.framing import Arrays, Buffer, FramingLimits, Packet, check_sizes, unpack
from sim_stream.wire.jobs import Job, Result
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
    Status,
    Step,
)
from sim_stream.wire.observe import Exchange, Observer
from sim_stream.wire.replies import addressed, reply_to, viewers_copy
from sim_stream.wire.requests import (
    require_actions,
    require_frames,
    require_no_arrays,
    require_offered,
)

# Replies to the last closes, so that a close whose reply was lost can be asked again.
CLOSED_KEPT = 16


@dataclass(frozen=True)
class Outgoing:
    """A packet for one client, or, without a route, for every viewer."""

    route: bytes | None
    packet: Packet


@dataclass
class Counters:
    """What ``status`` and the metrics show. The I/O loop writes all but ``errors``, which counts
    refusals by their code."""

    undelivered: int = 0
    progress: int = 0
    queued: int = 0
    sessions: int = 0
    errors: Counter[ErrorCode] = field(default_factory=Counter)


@dataclass
class Dispatcher:
    """``submit`` hands a job to the engine and says False when its queue is full.

    A session is its owner's: to all other keys there is no such session.
    """

    info: HelloOk
    submit: Callable[[Job], bool]
    lease_ns: int
    clock_ns: Callable[[], int]
    observer: Observer | None = None
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
        reply = refusal.to_error(rid=envelope.rid, sid=envelope.sid, committed_step=committed_step)
        self.counters.errors[refusal.code] += 1
        journal.refused(reply, envelope.t)
        return Packet(reply)

    def on_result(self, result: Result) -> Iterator[Outgoing]:
        """Replies, and what viewers get to see, for a job that has ended."""
        job = result.job
        record, now_ns = self._sessions[job.sid], self.clock_ns()
        # A reply may take longer than the lease: its client could not know that it was over.
        record.last_seen_ns = now_ns
        journal.ended(result)
        if result.refusal is not None:
            self.counters.errors[result.refusal.code] += 1
        packet = reply_to(result, queue_depth=max(len(record.in_flight) - 1, 0), now_ns=now_ns)
        waiters = [Waiter(job.route, job.request.rid)] if job.route is not None else []
        if isinstance(job.request, Step):
            kept = packet if result.refusal is None else None
            waiters = record.finish(job.request.step, result.committed_step, kept)
        else:
            self._finish_control(record, result, packet)
        for waiter in waiters:
            yield Outgoing(waiter.route, addressed(packet, waiter.rid))
        if result.info is not None:
            yield Outgoing(None, viewers_copy(packet))
        self._show(result, packet)  # last, when the reply is on its way

    def _show(self, result: Result, packet: Packet) -> None:
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
                    journal.expired(record.sid, record.committed_step)
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
                self._open(request, arrays, waiter, recv_ns)
                return None
            case Close() if not self._owns(waiter.user, request.sid):
                return self._closed_before(request, waiter)
        record = self._record(request.sid, waiter, recv_ns)
        self._require_running()
        if record.closing and not isinstance(request, Close):
            raise Refusal(ErrorCode.NO_SESSION, f"sid: got {request.sid!r}; it is being closed")
        if isinstance(request, Step):
            return self._step(record, request, waiter, recv_ns)
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
        )

    def _open(self, request: Open, arrays: Arrays, waiter: Waiter, recv_ns: int) -> None:
        require_offered(request, self.info)
        frames = require_frames(request, arrays, self.info)
        self._admit(request, waiter, recv_ns, frames)

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
        self._submit(Job(sid=record.sid, request=request, t_recv_ns=recv_ns, route=waiter.route))
        record.accept(request, waiter)
        return None

    def _control(
        self,
        record: SessionRecord,
        request: Reset | Fork | Close,
        arrays: Arrays,
        waiter: Waiter,
        recv_ns: int,
    ) -> None:
        record.require_no_control()
        if isinstance(request, Fork):
            self._admit(request, waiter, recv_ns, None)
            return
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
        request: Open | Fork,
        waiter: Waiter,
        recv_ns: int,
        frames: np.typing.NDArray[np.uint8] | None,
    ) -> None:
        """Sends a request for a new session to the engine."""
        limits = self.info.limits
        if self.sessions >= limits.max_sessions:
            raise Refusal(
                ErrorCode.LIMIT, f"{limits.max_sessions} sessions are open; close one first"
            )
        mine = sum(record.owner == waiter.user for record in self._sessions.values())
        self.admission.admit_session(mine)
        sid = secrets.token_hex(8)
        self._submit(
            Job(sid=sid, request=request, t_recv_ns=recv_ns, route=waiter.route, frames=frames)
        )
        self._sessions[sid] = SessionRecord(
            sid, limits.max_in_flight, recv_ns, owner=waiter.user, control=True
        )

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
        record.control = False
        request, sid = result.job.request, record.sid
        if isinstance(request, Close):
            if result.refusal is not None and result.refusal.code is ErrorCode.SHUTTING_DOWN:
                return  # it never ran: steps before it may still be in the engine's hands
            del self._sessions[sid]
            self._closed[record.owner, sid] = packet
            while len(self._closed) > CLOSED_KEPT:
                self._closed.popitem(last=False)
        elif result.refusal is None:
            record.restart(result.committed_step)
        elif isinstance(request, Open | Fork):
            del self._sessions[sid]
