"""The last resort at the edge of a loop that must go on, whatever escapes from its work.

What a caller or a peer may do wrong is handled where it happens; here is what nobody foresaw: it is
logged with its request, counted, and never makes a loop spin. KeyboardInterrupt, SystemExit and
their like are no ``Exception`` and end a loop as ever. Knows no loop and no messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

# Of one loop; a failure that comes again and again must not fill the disk that the log is on.
LOGGED_PER_S, LOGGED_AT_ONCE = 2.0, 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.25


class InternalErrors:
    """How many escaped so far, by the loop that they escaped from. Any thread may add and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, where: str) -> None:
        with self._lock:
            self._counts[where] += 1

    def by_place(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


class LastResort:
    """Of the loop ``where``. Belongs to that loop's thread."""

    def __init__(self, where: str, errors: InternalErrors) -> None:
        self._where, self._errors = where, errors
        self._in_a_row = 0
        self._may_log, self._looked_s = LOGGED_AT_ONCE, time.monotonic()
        self._unsaid = 0

    def caught(self, error: Exception, what: str, ids: Mapping[str, object] | None = None) -> None:
        """``what`` the loop was about; ``ids`` of session, step and request, for the log."""
        self._errors.add(self._where)
        now_s = time.monotonic()
        self._may_log = min(self._may_log + (now_s - self._looked_s) * LOGGED_PER_S, LOGGED_AT_ONCE)
        self._looked_s = now_s
        if self._may_log < 1.0:
            self._unsaid += 1
            return
        self._may_log -= 1.0
        unsaid, self._unsaid = self._unsaid, 0
        left_out = f" ({unsaid} more left out)" if unsaid else ""
        kind = type(error).__qualname__
        log.error(
            *("%s: %s escaped from %s; it goes on%s", self._where, kind, what, left_out),
            exc_info=error,
            extra=dict(ids or {}),
        )

    @contextmanager
    def around(self, what: str, ids: Mapping[str, object] | None = None) -> Iterator[None]:
        """A block whose failure concerns nothing after it."""
        try:
            yield
        except Exception as error:
            self.caught(error, what, ids)

    def pause_s(self) -> float:
        """How long to rest after a round that failed: longer each time, so that a loop that fails
        at every round does not spin."""
        self._in_a_row += 1
        return min(FIRST_PAUSE_S * 2.0 ** min(self._in_a_row, 30), LONGEST_PAUSE_S)

    def well(self) -> None:
        """A round has succeeded."""
        self._in_a_row = 0
