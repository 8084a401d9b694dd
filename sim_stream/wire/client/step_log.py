"""The last steps of a session, as its client remembers them: what a recording may still lack.

A server writes its recordings after its replies. When it dies, the last steps that a client saw
may be missing; a client that remembers them takes them again. Knows no sockets.
"""

from __future__ import annotations

from collections import deque

from sim_stream.errors import RemoteError
from sim_stream.wire.messages import ErrorCode, Step

# However many a server asks for: some megabytes, and 64 times what this one does.
MOST_STEPS = 65_536


class StepLog:
    """Steps whose replies came, in order; the last ``size`` of them."""

    def __init__(self, size: int, *, since: int) -> None:
        self._steps: deque[Step] = deque(maxlen=min(size, MOST_STEPS))
        self._since = since

    def restart(self, since: int) -> None:
        """The session begins anew, or goes on, from that step."""
        self._steps.clear()
        self._since = since

    def add(self, step: Step) -> None:
        if len(self._steps) == self._steps.maxlen:
            self._since = self._steps[0].step if self._steps else step.step
        self._steps.append(step)

    def after(self, recorded: int) -> list[Step]:
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
        return [step for step in self._steps if step.step > recorded]
