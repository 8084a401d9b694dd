"""Recorded sessions are read beside the engine, one at a time, so that no other session waits.

A resume goes through here on its way to the engine: what its recording tells is read in a thread of
its own, then the engine gets it with the job. Those that wait are as few as there may be sessions.
Knows no files and no models.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import replace

from sim_stream.last_resort import LastResort
from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.observe import Archive
from sim_stream.wire.server.jobs import Job, Refusal, Result, attempt, failure


class Loader:
    """``ready`` takes a job with its session's past, and says False when the engine takes none."""

    def __init__(
        self,
        archive: Archive,
        *,
        model_id: str,
        weights_sha256: str,
        depth: int,
        ready: Callable[[Job], bool],
        resort: LastResort,
    ) -> None:
        self._archive = archive
        self._model_id, self._weights_sha256 = model_id, weights_sha256
        self._ready, self._resort = ready, resort
        self._jobs: queue.Queue[Job | None] = queue.Queue(depth + 1)  # and the end
        self._depth = depth
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def submit(self, job: Job) -> bool:
        """False when ``depth`` jobs wait. For the I/O thread alone, like ``close``."""
        if self._closed or self._jobs.qsize() >= self._depth:
            return False
        self._jobs.put_nowait(job)
        return True

    def close(self) -> list[Job]:
        """Ends the thread after the recording in hand; the jobs that will not run."""
        self._closed = True
        dropped: list[Job] = []
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            dropped += [] if job is None else [job]
        self._jobs.put_nowait(None)
        return dropped

    def run(self, reply: Callable[[Result], None]) -> None:
        """Until ``close``. ``reply`` gets the result of what cannot be resumed."""
        while (job := self._jobs.get()) is not None:
            try:
                result = self._load(job)
            except Exception as error:
                self._resort.caught(error, f"{job.kind} {job.sid}", job.ids)
                refusal = Refusal(ErrorCode.INTERNAL, failure(f"resume {job.sid}", error))
                result = Result(job=job, committed_step=-1, refusal=refusal)
            if result is not None:
                reply(result)

    def _load(self, job: Job) -> Result | None:
        """A result when it was refused; else the engine has it now."""
        past = attempt(
            lambda: self._archive.find(
                job.sid, model_id=self._model_id, weights_sha256=self._weights_sha256
            ),
            what=f"resume {job.sid}",
            ids=job.ids,
        )
        if not isinstance(past, Refusal):
            if self._ready(replace(job, past=past)):
                return None
            past = Refusal(ErrorCode.BUSY, "the engine's queue is full; try again")
            if self._closed:
                past = Refusal(ErrorCode.SHUTTING_DOWN, "the server is shutting down")
        return Result(job=job, committed_step=-1, refusal=past)
