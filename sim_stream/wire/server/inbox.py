"""The jobs that wait for the engine, and which of them may run now.

A session's jobs run one after another, in the order they came; other sessions' do not wait for
them. What is not a step also waits until all frames of its session are rendered. A realtime
session's step waits for the session's next period, and a newer one may take its place.

Knows no runtime; shared by the I/O thread, the engine thread and the decoder thread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Container, Sized
from typing import Protocol

from sim_stream.wire.messages import Close, Fork, Step
from sim_stream.wire.server.jobs import Job

# A step may come this part of a period early: clients' clocks are not exact.
EARLY = 0.25


class Busy(Container[str], Sized, Protocol):
    """The sids of sessions that have a step under way."""


class Inbox:
    """At most ``depth`` jobs wait."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._jobs: list[Job] = []
        self._unrendered: Counter[str] = Counter()
        self._due_ns: dict[str, int] = {}  # when a realtime session's next step is
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

    def supersede(self, job: Job) -> Job | None:
        """Puts a realtime step in the place of the one that waits; None: there is none."""
        with self._changed:
            for index, waiting in enumerate(self._jobs):
                if waiting.sid == job.sid and isinstance(waiting.request, Step):
                    self._jobs[index] = job
                    return waiting
            return None

    def take(self, busy: Busy) -> list[Job] | None:
        """Jobs that may run now, one of a session; waits for one while nothing is busy.

        None once the inbox is closed and nothing is busy.
        """
        with self._changed:
            while True:
                now_ns = time.monotonic_ns()
                ready, left = self._split(busy, now_ns)
                if ready or len(busy):
                    self._jobs = left
                    self._pace(ready, now_ns)
                    return ready
                if self._closed:
                    return None
                self._changed.wait(self._wait_s(now_ns))

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

    def give_up(self, sid: str) -> None:
        """Nobody knows how many frames of that session are being rendered: none is waited for."""
        with self._changed:
            self._unrendered.pop(sid, None)
            self._changed.notify()

    def _pace(self, taken: list[Job], now_ns: int) -> None:
        """A period from when the step was due, so that one that was early or late shifts no
        other; from now, where the session fell behind."""
        for job in taken:
            if job.pace is not None:
                due_ns = max(self._due_ns.get(job.sid, now_ns), now_ns)
                self._due_ns[job.sid] = due_ns + job.pace.period_ns
            elif isinstance(job.request, Close):
                self._due_ns.pop(job.sid, None)

    def _start_ns(self, job: Job) -> int:
        """When a realtime step may run."""
        assert job.pace is not None
        return self._due_ns.get(job.sid, 0) - round(job.pace.period_ns * EARLY)

    def _wait_s(self, now_ns: int) -> float | None:
        starts_ns = [self._start_ns(job) for job in self._jobs if job.pace is not None]
        future_ns = [start_ns for start_ns in starts_ns if start_ns > now_ns]
        return (min(future_ns) - now_ns) / 1e9 if future_ns else None

    def _split(self, busy: Busy, now_ns: int) -> tuple[list[Job], list[Job]]:
        """The jobs that may run now, and the others."""
        ready: list[Job] = []
        left: list[Job] = []
        seen: set[str] = set()
        for job in self._jobs:
            sid = job.request.sid if isinstance(job.request, Fork) else job.sid
            blocked = sid in seen or sid in busy
            if not isinstance(job.request, Step):
                blocked = blocked or self._unrendered[sid] > 0
            elif job.pace is not None:
                blocked = blocked or self._unrendered[sid] >= job.pace.ahead
                blocked = blocked or self._start_ns(job) > now_ns
            (left if blocked else ready).append(job)
            seen.add(sid)
        return ready, left
