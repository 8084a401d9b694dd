"""The model's sessions by sid, and which of them have failed.

A failed session refuses to step until it is reset: its KV cache may be half written. All methods
belong to the engine thread, but for ``mark_failed``. Knows no threads, queues or clients.
"""

from __future__ import annotations

from dataclasses import replace

from sim_stream.errors import InvalidInput
from sim_stream.stream_model import Chunk, Prediction, StreamModel, WorldSession
from sim_stream.wire.inputs import StartValues, check_start
from sim_stream.wire.messages import Close, ErrorCode, Fork, Open, Reset, Resume, Step
from sim_stream.wire.server.jobs import Job, Refusal, attempt, checked
from sim_stream.wire.server.resume import Live, Rebuild


class SessionHost:
    """Runs jobs on sessions. Methods raise whatever the model raises; callers ``attempt``."""

    def __init__(self, model: StreamModel) -> None:
        self._model = model
        self._sessions: dict[str, Live] = {}
        self._failed: set[str] = set()

    def mark_failed(self, sid: str) -> None:
        """Called by the decoder thread, too: adding to and looking into a set are atomic."""
        self._failed.add(sid)

    def seed(self, sid: str) -> int:
        live = self._sessions.get(sid)
        return 0 if live is None else live.seed

    def committed_step(self, sid: str) -> int:
        live = self._sessions.get(sid)
        return -1 if live is None else live.committed_step

    def prompt_psnr_db(self, sid: str) -> float | None:
        """Of a session that has begun."""
        live = self._sessions.get(sid)
        return None if live is None else live.prompt_psnr_db

    def begin(self, job: Job, request: Step, now_ns: int) -> Prediction:
        """Starts the prediction of a step; ``advance`` takes it further."""
        live = self._healthy(job.sid)
        session, expected = live.session, live.committed_step + 1
        if request.step != expected and not live.realtime:  # an earlier step in flight was refused
            raise Refusal(ErrorCode.STEP_CONFLICT, f"step: got {request.step}; next is {expected}")
        left_ms = None
        if request.deadline_ms is not None:
            left_ms = request.deadline_ms - (now_ns - job.t_recv_ns) / 1e6
            if left_ms <= 0:
                raise Refusal(ErrorCode.DEADLINE, f"step: waited {-left_ms:.1f} ms too long")
        return session.begin(job.inputs, deadline_ms=left_ms if session.takes_deadline else None)

    def took(self, sid: str, step: int) -> None:
        """The session has taken that step."""
        self._sessions[sid].committed_step = step

    def advance(self) -> None:
        self._model.advance()

    def prefill_ahead(self, sid: str) -> None:
        self._sessions[sid].session.prefill_ahead()

    def checked(self, chunk: Chunk) -> Chunk:
        """As ``jobs.checked``. The decoder thread's, too."""
        return checked(chunk, self._model.spec)

    def control(self, job: Job) -> Chunk | None:
        """Everything but a step; nothing of that session may be under way."""
        match job.request:
            case Open():
                return self._open(job, job.request)
            case Reset():
                live = self._sessions[job.sid]
                first = self._start(live.session, job.start, job.request.seed)
                live.seed, live.committed_step = job.request.seed, 0
                live.prompt_psnr_db = None if first is None else first.prompt_psnr_db
                self._failed.discard(job.sid)
                return first
            case Fork(sid=parent_sid, seed=seed):
                parent = self._healthy(parent_sid)
                twin = replace(parent, session=parent.session.fork())
                if seed is not None:
                    twin.reseed(seed)
                self._sessions[job.sid] = twin
                return None
            case Close():
                return self._close(job)
            case Step() | Resume():
                raise AssertionError("begun and advanced, not controlled")

    def revive(self, job: Job, *, keep: int) -> Rebuild:
        """A recorded session, at its start; it has ``keep`` of its last steps to answer again."""
        past, spec = job.past, self._model.spec
        assert past is not None, "it was loaded before"
        check_start(spec, past.start)  # by what this server's model takes
        if past.lookahead not in spec.lookaheads:
            allowed = " or ".join(map(str, sorted(spec.lookaheads)))
            raise InvalidInput("lookahead", past.lookahead, allowed)
        session = self._model.open_session(lookahead=past.lookahead)
        live = Live(session, past.seed, past.mode == "realtime", None)
        self._sessions[job.sid] = live
        first = self._start(session, past.start, past.seed)
        live.prompt_psnr_db = None if first is None else first.prompt_psnr_db
        return Rebuild(live, first, past, keep, spec, self.checked)

    def drop(self, sid: str) -> None:
        """A session that could not be rebuilt."""
        live = self._sessions.get(sid)
        if live is not None:
            attempt(live.session.close, what=f"close {sid}", ids={"sid": sid})
        self.forget(sid)

    def forget(self, sid: str) -> None:
        self._sessions.pop(sid, None)
        self._failed.discard(sid)

    def close_all(self) -> None:
        for sid, live in self._sessions.items():
            attempt(live.session.close, what=f"close {sid}", ids={"sid": sid})
        self._sessions.clear()

    def _open(self, job: Job, request: Open) -> Chunk | None:
        lookahead = request.lookahead
        if lookahead is None:
            lookahead = self._model.spec.lookaheads[0]
        session = self._model.open_session(lookahead=lookahead)
        first = attempt(
            lambda: self._start(session, job.start, request.seed),
            what=f"open {job.sid}",
            ids=job.ids,
        )
        if isinstance(first, Refusal):
            session.close()
            raise first
        psnr_db = None if first is None else first.prompt_psnr_db
        realtime = request.mode == "realtime"
        self._sessions[job.sid] = Live(session, request.seed, realtime, psnr_db)
        return first

    def _close(self, job: Job) -> Chunk | None:
        live = self._sessions.get(job.sid)
        if live is None:  # it never came to be
            return None
        session = live.session
        try:
            if job.route is None or job.sid in self._failed:
                return None
            last = session.flush()
            return None if last is None else self.checked(last)
        finally:
            session.close()

    def _healthy(self, sid: str) -> Live:
        if sid in self._failed:
            raise Refusal(ErrorCode.ENGINE_FAILED, "the session failed earlier; reset or close it")
        return self._sessions[sid]

    def _start(self, session: WorldSession, start: StartValues | None, seed: int) -> Chunk | None:
        assert start is not None, "the dispatcher refuses an open or reset without its values"
        first = session.reset(
            start.frames,
            seed=seed,
            inputs=start.inputs,
            prompt_inputs=start.prompt_inputs,
            options=start.options,
        )
        if first is None and len(start.frames):
            raise TypeError("no frames for a prompt with frames")
        return None if first is None else self.checked(first)
