"""What the server logs of its sessions: records with the ids of session, step and request.

Opened, resumed, reset, closed and expired at info, refusals and answered steps at debug. (A failure
of the engine is logged with its traceback where it is caught, in ``faults``.) Knows no sockets.
"""

from __future__ import annotations

import logging

from sim_stream.wire.messages import Close, Error, ErrorCode, Fork, Open, Reset, Resume, Step
from sim_stream.wire.server.jobs import Result

log = logging.getLogger(__name__)


def ended(result: Result) -> None:
    """A job came back from the engine."""
    job, request = result.job, result.job.request
    if result.refusal is not None:
        _refused(result.refusal.code, result.refusal.message, job.kind, job.ids)
    elif isinstance(request, Step):
        log.debug("session %s: step %d answered", job.sid, request.step, extra=job.ids)
    elif isinstance(request, Fork):
        log.info("session %s: opened, a fork of %s", job.sid, request.sid, extra=job.ids)
    elif isinstance(request, Resume):
        log.info("session %s: resumed at step %d", job.sid, result.committed_step, extra=job.ids)
    elif isinstance(request, Open | Reset):
        done = "opened" if isinstance(request, Open) else "reset"
        log.info("session %s: %s, seed %d", job.sid, done, request.seed, extra=job.ids)
    elif isinstance(request, Close):
        known = job.ids | {"step": result.committed_step}
        log.info("session %s: closed at step %d", job.sid, result.committed_step, extra=known)


def refused(error: Error, kind: str) -> None:
    """A request that the engine never heard of, by what its client is told."""
    ids: dict[str, object] = {"rid": error.rid}
    if error.sid:
        ids |= {"sid": error.sid, "step": error.committed_step}
    _refused(error.code, error.message, kind, ids)


def expired(sid: str, committed_step: int, *, unwanted: bool = False) -> None:
    """Nobody was heard of for a lease, or whoever opened it did not wait for it."""
    why = "nobody waits for it" if unwanted else "lease ran out"
    log.info("session %s: %s", sid, why, extra={"sid": sid, "step": committed_step})


def _refused(code: ErrorCode, message: str, kind: str, ids: dict[str, object]) -> None:
    known = ids | {"code": code.value}
    named = kind if kind.isidentifier() else "message"  # it may be anything a client sent
    log.debug("%s refused: %s: %s", named, code.value, message, extra=known)
