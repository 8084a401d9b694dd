"""The jobs that wait for the engine, and which of them may run now.

A session's jobs run one after another, in the order they came; other sessions' do not wait for
them. What is not a step also waits until all frames of its session are rendered.

Knows no runtime; shared by the I/O thread, the engine thread and the decoder thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Container, Sized
from typing import Protocol

from sim_stream.wire.jobs import Job
from sim_stream.wire.messages import Fork, Step


class Busy(Container[str], Sized, Protocol):
    """The sids of sessions that have a step under way."""


class Inbox:
    """At most ``depth`` jobs wait."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._jobs: list[Job] = []
        self._unrendered: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, job: Job) -> bool:
        """False when it is full or closed."""
        with self._changed:
            if self._closed or len(self._jobs) >= self._depth:
                return False
            self._jobs.append(job)
            self._changed.notify()
            return True

    def take(self, busy: Busy) -> list[Job] | None:
        """Jobs that may run now, one of a session; waits for one while nothing is busy.

        None once the inbox is closed and nothing is busy.
        """
        with self._changed:
            while True:
                ready, left = self._split(busy)
                if ready or len(busy):
                    self._jobs = left
                    return ready
                if self._closed:
                    return None
                self._changed.wait()

    def close(self) -> list[Job]:
        """Takes no more jobs; those that wait, which will not run."""
        with self._changed:
            self._closed = True
            dropped, self._jobs = self._jobs, []
            self._changed.notify()
            return dropped

    def rendering(self, sid: str) -> None:
        """A frame of that session goes to the decoder thread."""
        with self._changed:
            self._unrendered[sid] += 1

    def rendered(self, sid: str) -> None:
        """A frame of that session is done."""
        with self._changed:
            self._unrendered[sid] -= 1
            if not self._unrendered[sid]:
                del self._unrendered[sid]
            self._changed.notify()

    def _split(self, busy: Busy) -> tuple[list[Job], list[Job]]:
        """The jobs that may run now, and the others."""
        ready: list[Job] = []
        left: list[Job] = []
        seen: set[str] = set()
        for job in self._jobs:
            sid = job.request.sid if isinstance(job.request, Fork) else job.sid
            blocked = sid in seen or sid in busy
            if not isinstance(job.request, Step):
                blocked = blocked or self._unrendered[sid] > 0
            (left if blocked else ready).append(job)
            seen.add(sid)
        return ready, left
