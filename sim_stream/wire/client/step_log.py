"""The last steps of a session, as its client remembers them: what a recording may still lack.

A server writes its recordings after its replies. When it dies, the last steps that a client saw
may be missing; a client that remembers them takes them again. Knows no sockets.
"""

from __future__ import annotations

from collections import deque

from sim_stream.errors import RemoteError
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import ErrorCode, Step

# However many a server asks for: some megabytes, and 64 times what this one does.
MOST_STEPS = 65_536
# What their arrays may take; beyond it the oldest are forgotten.
MOST_BYTES = 128 * 1024 * 1024


class StepLog:
    """Steps whose replies came, in order; the last ``size`` of them."""

    def __init__(self, size: int, *, since: int) -> None:
        self._size = min(size, MOST_STEPS)
        self._steps: deque[tuple[Step, Arrays]] = deque()
        self._bytes = 0
        self._since = since

    def restart(self, since: int) -> None:
        """The session begins anew, or goes on, from that step."""
        self._steps.clear()
        self._bytes, self._since = 0, since

    def add(self, step: Step, arrays: Arrays) -> None:
        self._steps.append((step, arrays))
        self._bytes += _bytes(arrays)
        while len(self._steps) > self._size or self._bytes > MOST_BYTES:
            forgotten, with_it = self._steps.popleft()
            self._bytes -= _bytes(with_it)
            self._since = forgotten.step

    def after(self, recorded: int) -> list[tuple[Step, Arrays]]:
        """What a session that goes on after ``recorded`` lacks. Raises RemoteError: NO_SESSION,
        where steps between are remembered by nobody."""
        if recorded < self._since:
            raise RemoteError(
                ErrorCode.NO_SESSION,
                f"resume: the recording ends with step {recorded}; this client remembers the steps "
                f"after {self._since}, so what is between is lost",
                retryable=False,
                committed_step=recorded,
            )
        return [(step, arrays) for step, arrays in self._steps if step.step > recorded]


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
