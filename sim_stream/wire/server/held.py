"""Replies that begin a session, held back until its recording would survive this process.

So a client that has the reply can resume the session, from the right start. Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from sim_stream.wire.framing import Packet
from sim_stream.wire.messages import Fork, Open, Reset, Resume
from sim_stream.wire.server.jobs import Result

# How long an opening waits before it goes without a recording.
HOLD_NS = 2_000_000_000


@dataclass(frozen=True)
class _Held:
    result: Result
    packet: Packet
    give_up_ns: int
    written: Future[bool] = field(default_factory=Future)

    def due(self, now_ns: int) -> bool:
        """A reset waits on, lest a resumed session go on from before it."""
        patient = isinstance(self.result.job.request, Reset) or now_ns < self.give_up_ns
        return self.written.done() or not patient


class HeldReplies:
    """In the order in which they came."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, result: Result, packet: Packet, now_ns: int) -> Future[bool]:
        """What a recorder tells that the exchange was written, or never will be."""
        held = _Held(result, packet, now_ns + HOLD_NS)
        self._held.append(held)
        return held.written

    def due(self, now_ns: int) -> Iterator[tuple[Result, Packet, bool]]:
        """Those that may leave, and whether they were written."""
        due = [held for held in self._held if held.due(now_ns)]
        self._held = [held for held in self._held if held not in due]
        for held in due:
            yield held.result, held.packet, _was_written(held.written)


def _was_written(written: Future[bool]) -> bool:
    """Not if whoever was to write it failed at saying so."""
    if not written.done() or written.cancelled() or written.exception() is not None:
        return False
    return written.result()


def begins(result: Result) -> bool:
    """Whether the session begins with it."""
    return result.refusal is None and isinstance(result.job.request, Open | Fork | Reset | Resume)
