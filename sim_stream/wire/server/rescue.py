"""What becomes of a request or a session after something that nobody foresaw.

Whoever waits gets INTERNAL. A session that the failure concerns may be in any state: it ends, here
and in the engine, and everybody else goes on. Used by the I/O thread alone. Knows no sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.wire import codec
from sim_stream.wire.framing import Buffer, Packet
from sim_stream.wire.messages import Close, Error, ErrorCode, Fork, Open, Reset, Resume, Step
from sim_stream.wire.server.exactly_once import Waiter
from sim_stream.wire.server.jobs import Refusal, Result
from sim_stream.wire.server.sessions import Sessions

log = logging.getLogger(__name__)

UNFORESEEN = "the server failed here in a way that nobody foresaw; its log says how"
ENDED = f"{UNFORESEEN}; the session has ended"


class Rescue:
    """Makes up for what escaped; fails at nothing that it is given."""

    def __init__(self, sessions: Sessions, errors: InternalErrors) -> None:
        self._sessions = sessions
        self._requests = LastResort("request", errors)
        self._results = LastResort("result", errors)

    def request(
        self, error: Exception, waiter: Waiter, parts: Sequence[Buffer]
    ) -> Iterator[tuple[Waiter, Packet]]:
        """The replies after ``on_request`` failed. ``waiter`` without its rid."""
        rid, sid, failed = 0, "", False
        try:
            envelope = codec.decode_envelope(parts[0])
            rid, sid = envelope.rid, envelope.sid
            request = codec.decode_request(parts[0])
            # Another request leaves its session alone, or has none yet.
            acts = isinstance(request, Step | Reset | Fork | Close)
            failed = acts and self._sessions.owns(waiter.user, sid)
        except Exception as another:  # whatever failed may fail again
            log.debug("of the request no more is known: %s", type(another).__qualname__)
        self._requests.caught(error, "a request", {"sid": sid, "rid": rid})
        yield waiter, internal(ENDED if failed else UNFORESEEN, rid, sid)
        if failed:
            yield from self._end(sid)

    def result(self, error: Exception, result: Result) -> Iterator[tuple[Waiter, Packet]]:
        """The replies after ``on_result``, or sending them, failed."""
        job = result.job
        self._results.caught(error, f"the end of {job.kind} {job.sid}", job.ids)
        yield from self._end(job.sid, closed=isinstance(job.request, Close))
        # Those who wait for a step or for a session are known to the session; for others the job.
        if job.route is not None and not isinstance(job.request, Step | Open | Fork | Resume):
            waiter = Waiter(job.route, job.request.rid)
            yield waiter, internal(ENDED, waiter.rid, job.sid)

    def _end(self, sid: str, *, closed: bool = False) -> Iterator[tuple[Waiter, Packet]]:
        for waiter in self._sessions.condemn(sid, closed=closed):
            yield waiter, internal(ENDED, waiter.rid, sid)


def internal(message: str, rid: int, sid: str) -> Packet:
    """The error itself."""
    error: Error = Refusal(ErrorCode.INTERNAL, message).to_error(
        rid=rid, sid=sid, committed_step=-1
    )
    return Packet(error)
