"""The sessions of a server: whose they are, how they begin and how they end.

To all keys but its owner's there is no such session. Requests for sessions become jobs here; what a
session does in between is its record's business (``ledger``).

Knows no sockets and no engine. Used by the I/O thread alone, hence without locks.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from msgspec.structs import replace

from sim_stream.errors import InvalidInput
from sim_stream.wire.framing import Arrays, Packet
from sim_stream.wire.inputs import StartValues
from sim_stream.wire.messages import (
    MODES,
    Close,
    Closed,
    ErrorCode,
    Fork,
    HelloOk,
    Open,
    Opened,
    Reset,
    Resume,
)
from sim_stream.wire.observe import Archive
from sim_stream.wire.server import journal
from sim_stream.wire.server.admission import Admission
from sim_stream.wire.server.exactly_once import (
    Openings,
    SessionRecord,
    Waiter,
    opening_digest,
    step_digest,
)
from sim_stream.wire.server.jobs import Job, Refusal, Result
from sim_stream.wire.server.replies import addressed, remembered_reply
from sim_stream.wire.server.resume import sign, signed_sid

# Replies to the last closes, so that a close whose reply was lost can be asked again.
CLOSED_KEPT = 16


class Sessions:
    """``submit`` hands a job to the engine and says False when its queue is full."""

    def __init__(
        self,
        info: HelloOk,
        submit: Callable[[Job], bool],
        admission: Admission,
        archive: Archive | None,
    ) -> None:
        self._limits, self._submit = info.limits, submit
        self._admission, self._archive = admission, archive
        self._records: dict[str, SessionRecord] = {}
        self._closed: OrderedDict[tuple[str, str], Packet] = OrderedDict()  # by owner and sid
        self._openings = Openings()
        # Sessions that are over here and not yet in the engine, which may still have jobs of
        # theirs; False: it has not been told to close them.
        self._condemned: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, sid: str) -> SessionRecord:
        """One that is known to be there."""
        return self._records[sid]

    def owns(self, user: str, sid: str) -> bool:
        record = self._records.get(sid)
        return record is not None and record.owner == user

    def seen(self, sid: str, waiter: Waiter, recv_ns: int) -> SessionRecord:
        """The session that its owner asks about, which renews its lease. Raises Refusal."""
        if not self.owns(waiter.user, sid):
            raise Refusal(ErrorCode.NO_SESSION, f"sid: got {sid!r}; unknown, closed or expired")
        record = self._records[sid]
        record.last_seen_ns = recv_ns
        return record

    def expire(self, now_ns: int, lease_ns: int) -> list[str]:
        """Closes those whose lease ran out, and those that nobody wants; their sids."""
        expired: list[str] = []
        for record in self._records.values():
            over = record.unwanted or now_ns - record.last_seen_ns > lease_ns
            if record.idle and over:
                job = Job(sid=record.sid, request=Close(sid=record.sid), t_recv_ns=now_ns)
                if self._submit(job):
                    record.control = record.closing = True
                    journal.expired(record.sid, record.committed_step, unwanted=record.unwanted)
                    expired.append(record.sid)
        return expired

    def condemn(self, sid: str, *, closed: bool = False) -> list[Waiter]:
        """Ends a session that is in nobody knows which state; who waits for it, or for a step.

        Whatever the engine still says of it is of no interest (``condemned``). ``closed``: the
        engine has closed it.
        """
        waiters: list[Waiter] = []
        record = self._records.pop(sid, None)
        if record is not None:
            waiters += [waiter for entry in record.in_flight.values() for waiter in entry.waiters]
        if closed:
            self._condemned.pop(sid, None)
        else:
            self._condemned.setdefault(sid, record is not None and record.closing)
        return waiters + self._openings.drop(sid)

    def clear_away(self) -> None:
        """Has the engine close what was condemned, as soon as its queue has room."""
        for sid, told in self._condemned.items():
            if not told:
                job = Job(sid=sid, request=Close(sid=sid), t_recv_ns=time.monotonic_ns())
                self._condemned[sid] = self._submit(job)

    def condemned(self, result: Result) -> bool:
        """Whether the job was of a session that is over. After its close nothing more comes."""
        sid = result.job.sid
        if sid in self._records:
            return False
        if isinstance(result.job.request, Close):
            self._condemned.pop(sid, None)
        return True

    def submit(self, job: Job) -> None:
        """Raises Refusal."""
        if not self._submit(job):
            raise Refusal(ErrorCode.BUSY, "the engine's queue is full; try again")

    # How they begin. Each returns the reply, or None when the engine has the request.

    def open(
        self, request: Open, start: StartValues, arrays: Arrays, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        if request.record and self._archive is None:
            raise Refusal(ErrorCode.LIMIT, "record: got true; this server does not record")
        realtime = request.mode == "realtime"
        return self._make(request, waiter, recv_ns, realtime=realtime, start=start, arrays=arrays)

    def fork(
        self, parent: SessionRecord, request: Fork, waiter: Waiter, recv_ns: int
    ) -> Packet | None:
        return self._make(request, waiter, recv_ns, realtime=parent.realtime, parent=parent)

    def resume(self, request: Resume, waiter: Waiter, recv_ns: int) -> Packet | None:
        if self._archive is None:
            raise Refusal(ErrorCode.LIMIT, "resume: this server does not record its sessions")
        sid = signed_sid(self._archive.key, request.resume_token, waiter.user)
        if sid in self._condemned:
            raise Refusal(ErrorCode.BUSY, "resume: the session is being cleared away")
        record = self._records.get(sid)
        if record is None:
            if (waiter.user, sid) in self._closed:
                raise Refusal(ErrorCode.NO_SESSION, "resume: the session was closed")
            self._admit(sid, request, waiter, recv_ns)
            self._openings.begin("", b"", sid, waiter)
            return None
        if record.closing:
            raise Refusal(ErrorCode.NO_SESSION, "resume: the session is being closed")
        if self._openings.join(sid, waiter):
            return None
        record.require_no_control()
        record.last_seen_ns = recv_ns
        there = Opened(
            sid=sid,
            committed_step=record.committed_step,
            seed=record.seed,
            prompt_psnr_db=record.prompt_psnr_db,
        )
        return addressed(self.with_token(Packet(there)), waiter.rid)

    def with_token(self, opened: Packet) -> Packet:
        """The reply of a session that could be resumed."""
        assert self._archive is not None and isinstance(opened.message, Opened)
        sid = opened.message.sid
        token = sign(self._archive.key, sid, self._records[sid].owner)
        return Packet(replace(opened.message, resume_token=token), opened.arrays)

    def _make(
        self,
        request: Open | Fork,
        waiter: Waiter,
        recv_ns: int,
        *,
        realtime: bool,
        start: StartValues | None = None,
        arrays: Arrays | None = None,
        parent: SessionRecord | None = None,
    ) -> Packet | None:
        """A new session, unless its key is known."""
        key = request.idempotency_key
        arrays = arrays or {}
        digest = opening_digest(request, arrays) if key else b""
        known = self._openings.recall(key, digest, waiter)
        if isinstance(known, Packet):
            return addressed(known, waiter.rid)
        if not known:
            if parent is not None:
                parent.require_no_control()
            sid = secrets.token_hex(8)
            self._admit(sid, request, waiter, recv_ns, start, arrays).realtime = realtime
            self._openings.begin(key, digest, sid, waiter)
        return None

    def _admit(
        self,
        sid: str,
        request: Open | Fork | Resume,
        waiter: Waiter,
        recv_ns: int,
        start: StartValues | None = None,
        arrays: Arrays | None = None,
    ) -> SessionRecord:
        """Sends a request for a session to the engine. Raises Refusal."""
        limits = self._limits
        if len(self) + len(self._condemned) >= limits.max_sessions:
            raise Refusal(
                ErrorCode.LIMIT, f"{limits.max_sessions} sessions are open; close one first"
            )
        mine = sum(record.owner == waiter.user for record in self._records.values())
        self._admission.admit_session(mine)
        self.submit(
            Job(
                sid=sid,
                request=request,
                t_recv_ns=recv_ns,
                route=waiter.route,
                start=start,
                arrays=arrays or {},
            )
        )
        record = SessionRecord(sid, limits.max_in_flight, recv_ns, owner=waiter.user, control=True)
        self._records[sid] = record
        return record

    # What became of what is not a step.

    def complete(self, result: Result, packet: Packet) -> list[Waiter]:
        """Ends an open, fork, resume, reset or close; who waits for its reply."""
        job, record = result.job, self._records[result.job.sid]
        record.control = False
        waiters = [] if job.route is None else [Waiter(job.route, job.request.rid)]
        if isinstance(job.request, Open | Fork | Resume):
            waiters = self._openings.finish(job.sid, None if result.refusal else packet)
        if isinstance(job.request, Close):
            self._end(record, result, packet)
        elif result.refusal is None:
            self._begin(record, result)
        elif not isinstance(job.request, Reset):
            del self._records[record.sid]
        return waiters

    def withdraw(self, request: Close, waiter: Waiter) -> Packet:
        """The session of such a key ends as soon as it is idle; its opening is not undone.
        One that comes only now, on a connection that was slower, opens nothing."""
        sid = self._openings.withdraw(request.idempotency_key, waiter.user)
        if sid:
            self._records[sid].unwanted = True
        return addressed(Packet(Closed(sid=sid, committed_step=-1)), request.rid)

    def closed_before(self, request: Close, waiter: Waiter) -> Packet:
        """The reply to a close of a session that is not there."""
        never = Packet(Closed(sid=request.sid, committed_step=-1))
        return addressed(self._closed.get((waiter.user, request.sid), never), request.rid)

    def _begin(self, record: SessionRecord, result: Result) -> None:
        record.restart(result.committed_step)
        record.prompt_psnr_db, record.seed = result.prompt_psnr_db, result.seed
        if result.past is not None:
            record.realtime = result.past.mode == "realtime"
        for one in result.remembered:
            digest = step_digest(one.request, one.arrays)
            record.remember(one.request.step, digest, remembered_reply(record.sid, one))

    def _end(self, record: SessionRecord, result: Result, packet: Packet) -> None:
        if result.refusal is not None and result.refusal.code is ErrorCode.SHUTTING_DOWN:
            return  # it never ran: steps before it may still be in the engine's hands
        del self._records[record.sid]
        self._openings.end(record.sid)
        self._closed[record.owner, record.sid] = packet
        while len(self._closed) > CLOSED_KEPT:
            self._closed.popitem(last=False)


def require_offered(request: Open, info: HelloOk) -> None:
    """Modes, lookaheads and periods that this version of the server has."""
    if request.mode not in MODES:
        raise InvalidInput("mode", request.mode, ", ".join(MODES))
    lookaheads = info.spec.lookaheads
    if request.lookahead is not None and request.lookahead not in lookaheads:
        allowed = " or ".join(map(str, sorted(lookaheads)))
        raise InvalidInput("lookahead", request.lookahead, f"{allowed}, or null")
    period_us = round(info.spec.period_ns / 1e3)
    if request.dt_us is not None and request.dt_us != period_us:
        raise InvalidInput("dt_us", request.dt_us, f"null or {period_us} ({info.spec.fps:g} fps)")
