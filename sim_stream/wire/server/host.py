"""The runtime's sessions by sid, and which of them an engine failure has spoilt.

A spoilt session refuses to step until it is reset: its KV cache may be half written. All methods
belong to the engine thread, but for ``mark_failed``. Knows no threads, queues or clients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sim_stream.wire import engine
from sim_stream.wire.messages import Close, ErrorCode, Fork, Open, Reset, Resume, Step
from sim_stream.wire.server.faults import Refusal, attempt
from sim_stream.wire.server.jobs import Job, checked
from sim_stream.wire.server.rebuild import Rebuild


@dataclass
class _Live:
    """``committed_step`` is the client's count of what the session took."""

    session: engine.Session
    seed: int
    realtime: bool
    committed_step: int = 0


class SessionHost:
    """Runs jobs on sessions. Methods raise whatever the runtime raises; callers ``attempt``."""

    def __init__(self, runtime: engine.Runtime) -> None:
        self._runtime = runtime
        self._sessions: dict[str, _Live] = {}
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
        return None if live is None else live.session.prompt_psnr_db

    def begin(self, job: Job, request: Step, now_ns: int) -> engine.Prediction:
        """Starts the world model's part of a step; ``advance`` takes it further."""
        live = self._healthy(job.sid)
        session, expected = live.session, live.committed_step + 1
        if request.step != expected and not live.realtime:  # an earlier step in flight was refused
            raise Refusal(ErrorCode.STEP_CONFLICT, f"step: got {request.step}; next is {expected}")
        left_ms = None
        if request.deadline_ms is not None:
            left_ms = request.deadline_ms - (now_ns - job.t_recv_ns) / 1e6
            if left_ms <= 0:
                raise Refusal(ErrorCode.DEADLINE, f"step: waited {-left_ms:.1f} ms too long")
        action = request.action.to_action() if request.action else None
        return session.begin(action, deadline_ms=left_ms if session.takes_deadline else None)

    def took(self, sid: str, step: int) -> None:
        """The session has taken that step."""
        self._sessions[sid].committed_step = step

    def advance(self) -> None:
        self._runtime.advance()

    def settle(self, sid: str) -> None:
        self._sessions[sid].session.settle()

    def control(self, job: Job) -> engine.Frame | None:
        """Everything but a step; nothing of that session may be under way."""
        match job.request:
            case Open():
                return self._open(job, job.request)
            case Reset():
                live = self._sessions[job.sid]
                first = _start(live.session, job.frames, job.request)
                live.seed, live.committed_step = job.request.seed, 0
                self._failed.discard(job.sid)
                return first
            case Fork(sid=parent_sid):
                parent = self._healthy(parent_sid)
                self._sessions[job.sid] = replace(parent, session=parent.session.fork())
                return None
            case Close():
                return self._close(job)
            case Step() | Resume():
                raise AssertionError("begun and advanced, not controlled")

    def revive(self, job: Job, *, keep: int) -> Rebuild:
        """A recorded session, at its start; it has ``keep`` of its last steps to answer again."""
        past = job.past
        assert past is not None, "it was loaded before"
        session = self._runtime.open_session(lookahead=past.lookahead)
        self._sessions[job.sid] = _Live(session, past.start.seed, past.mode == "realtime")
        first = _start(session, past.frames, past.start)
        return Rebuild(session, first, past, keep)

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

    def _open(self, job: Job, request: Open) -> engine.Frame:
        session = self._runtime.open_session(lookahead=request.lookahead)
        first = attempt(
            lambda: _start(session, job.frames, request), what=f"open {job.sid}", ids=job.ids
        )
        if isinstance(first, Refusal):
            session.close()
            raise first
        self._sessions[job.sid] = _Live(session, request.seed, request.mode == "realtime")
        return first

    def _close(self, job: Job) -> engine.Frame | None:
        live = self._sessions.get(job.sid)
        if live is None:  # it never came to be
            return None
        session = live.session
        try:
            if job.route is None or job.sid in self._failed:
                return None
            last = session.flush()
            return None if last is None else checked(last)
        finally:
            session.close()

    def _healthy(self, sid: str) -> _Live:
        if sid in self._failed:
            raise Refusal(ErrorCode.ENGINE_FAILED, "the session failed earlier; reset or close it")
        return self._sessions[sid]


def _start(
    session: engine.Session, frames: engine.Image | None, request: Open | Reset
) -> engine.Frame:
    assert frames is not None, "the dispatcher refuses an open or reset without frames"
    actions = request.actions
    first = session.reset(
        frames,
        seed=request.seed,
        text=request.text,
        actions=None if actions is None else [a.to_action() if a else None for a in actions],
        sampling=request.sampling.to_config() if request.sampling else None,
        decoding=request.decoding.to_config() if request.decoding else None,
    )
    if not math.isfinite(session.prompt_psnr_db):
        raise TypeError(f"prompt_psnr_db is {session.prompt_psnr_db}, not a finite number")
    return checked(first)
