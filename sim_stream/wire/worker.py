"""The two threads that compute: the engine predicts step n+1 while the decoder renders frame n.

Jobs come in through a bounded queue and run in order; results leave through ``results``, each
announced on an inproc socket that the I/O thread polls. Each thread owns its end of that socket.

Knows no clients and no addresses; what a job does to a session is the host's business.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

import zmq

from sim_stream.wire import engine
from sim_stream.wire.faults import Refusal, attempt
from sim_stream.wire.host import SessionHost
from sim_stream.wire.jobs import Job, Result, checked, describe
from sim_stream.wire.messages import Close, ErrorCode, Reset, Step

WAKE_ADDRESS = "inproc://sim-stream-wake"

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True)
class _Decode:
    """A predicted step on its way to the decoder thread."""

    job: Job
    pending: engine.Pending
    committed_step: int
    seed: int
    start_ns: int
    end_ns: int


class Wake:
    """One thread's own end of the I/O thread's bell."""

    def __init__(self, context: Context) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.linger = 0
        self._socket.connect(WAKE_ADDRESS)

    def ring(self) -> None:
        if self._socket.poll(0, zmq.POLLOUT):  # full: enough rings wait to be heard
            self._socket.send(b"", zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()


class EngineWorker:
    """Runs jobs, at most ``depth`` waiting. ``results`` ends with None when both threads end."""

    def __init__(self, runtime: engine.Runtime, context: Context, *, depth: int) -> None:
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self.progress = 0
        self._context = context
        self._depth = depth
        self._host = SessionHost(runtime)
        # One place more than jobs: the end marker always fits.
        self._jobs: queue.Queue[Job | None] = queue.Queue(depth + 1)
        self._decodes: queue.Queue[_Decode | None] = queue.Queue(depth + 1)
        self._threads = (
            threading.Thread(target=self._engine_loop, name="sim-stream-engine", daemon=True),
            threading.Thread(target=self._decoder_loop, name="sim-stream-decoder", daemon=True),
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        return self._jobs.qsize()

    def submit(self, job: Job) -> bool:
        """False when the queue is full. For the I/O thread alone."""
        if self._jobs.qsize() >= self._depth:
            return False
        self._jobs.put_nowait(job)
        return True

    def shut_down(self) -> list[Job]:
        """Lets the job in hand finish; hands back those that will not run. Does not wait."""
        dropped: list[Job] = []
        try:
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    dropped.append(job)
        except queue.Empty:
            self._jobs.put_nowait(None)
        return dropped

    def join(self, timeout_s: float | None) -> bool:
        """Waits for both threads; False when one is still busy."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # Engine thread.

    def _engine_loop(self) -> None:
        wake = Wake(self._context)
        while (job := self._jobs.get()) is not None:
            if isinstance(job.request, Step):
                result = self._predict(job, job.request)
            else:
                # Nothing is being rendered while sessions come, go or start anew.
                self._decodes.join()
                result = self._control(job)
            self.progress += 1
            if result is not None:
                self.results.put(result)
                wake.ring()
        self._decodes.join()
        self._host.close_all()
        self._decodes.put(None)
        wake.close()

    def _predict(self, job: Job, request: Step) -> Result | None:
        """A result when refused; else the decoder thread has it now."""
        start_ns = time.monotonic_ns()
        pending = attempt(
            lambda: self._host.predict(job, request, start_ns), what=f"step {job.sid}"
        )
        end_ns = time.monotonic_ns()
        committed_step = self._host.committed_step(job.sid)
        if isinstance(pending, Refusal):
            if pending.code is ErrorCode.ENGINE_FAILED:
                self._host.mark_failed(job.sid)
            return Result(job=job, committed_step=committed_step, refusal=pending)
        seed = self._host.seed(job.sid)
        self._decodes.put(_Decode(job, pending, committed_step, seed, start_ns, end_ns))
        return None

    def _control(self, job: Job) -> Result:
        start_ns = time.monotonic_ns()
        frame = attempt(lambda: self._host.control(job), what=f"{job.kind} {job.sid}")
        end_ns = time.monotonic_ns()
        committed_step, seed = self._host.committed_step(job.sid), self._host.seed(job.sid)
        if isinstance(job.request, Close):
            self._host.forget(job.sid)
        if isinstance(frame, Refusal):
            if isinstance(job.request, Reset) and frame.code is ErrorCode.ENGINE_FAILED:
                self._host.mark_failed(job.sid)
            return Result(job=job, committed_step=committed_step, refusal=frame)
        if frame is None:
            return Result(job=job, committed_step=committed_step)
        stamps_ns = {"engine_start": start_ns, "engine_end": end_ns}
        info = describe(frame, job, seed, stamps_ns)
        return Result(job=job, committed_step=committed_step, info=info, image=frame.image)

    # Decoder thread.

    def _decoder_loop(self) -> None:
        wake = Wake(self._context)
        while (decode := self._decodes.get()) is not None:
            self.results.put(self._render(decode))
            wake.ring()
            self._decodes.task_done()
        self.results.put(None)
        wake.ring()
        wake.close()

    def _render(self, decode: _Decode) -> Result:
        job, committed_step = decode.job, decode.committed_step
        start_ns = time.monotonic_ns()
        frame = attempt(lambda: checked(decode.pending.render()), what=f"decode {job.sid}")
        if isinstance(frame, Refusal):
            self._host.mark_failed(job.sid)
            return Result(job=job, committed_step=committed_step, refusal=frame)
        stamps_ns = {
            "engine_start": decode.start_ns,
            "engine_end": decode.end_ns,
            "decode_start": start_ns,
            "decode_end": time.monotonic_ns(),
        }
        info = describe(frame, job, decode.seed, stamps_ns)
        return Result(job=job, committed_step=committed_step, info=info, image=frame.image)
