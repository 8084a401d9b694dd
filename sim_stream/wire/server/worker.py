"""The two threads that compute: the engine predicts step n+1 while the decoder renders frame n.

A third reads the recordings of sessions that are resumed (``loading``).

Jobs come in through a bounded inbox. Steps of different sessions are under way at the same time and
advance pass by pass together; a session's own jobs run one after another, in order. Results leave
through ``results``, each announced on an inproc socket that the I/O thread polls. Each thread owns
its end of that socket.

Knows no clients and no addresses; what a job does to a session is the host's business.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import zmq

from sim_stream.last_resort import InternalErrors, LastResort
from sim_stream.stream_model import Pending, Prediction, StreamModel
from sim_stream.wire.messages import Close, ErrorCode, Reset, Resume, Step
from sim_stream.wire.observe import Archive
from sim_stream.wire.server.host import SessionHost
from sim_stream.wire.server.inbox import Inbox
from sim_stream.wire.server.jobs import Job, Refusal, Result, attempt, describe, failure
from sim_stream.wire.server.loading import Loader
from sim_stream.wire.server.resume import Rebuild

WAKE_ADDRESS = "inproc://sim-stream-wake"

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True)
class _UnderWay:
    """A step that was begun; one that a session took before, when it is being rebuilt."""

    job: Job
    prediction: Prediction
    start_ns: int
    rebuild: Rebuild | None = None


@dataclass(frozen=True)
class _Decode:
    """A predicted step on its way to the decoder thread."""

    job: Job
    pending: Pending
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

    def __enter__(self) -> Wake:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ring(self) -> None:
        # Refused: enough rings wait to be heard, or the I/O thread has ended and needs none.
        with suppress(zmq.Again):
            self._socket.send(b"", zmq.NOBLOCK)


class EngineWorker:
    """Runs jobs, at most ``depth`` waiting. ``results`` ends with None when both threads end."""

    def __init__(
        self,
        model: StreamModel,
        context: Context,
        *,
        depth: int,
        max_in_flight: int,
        archive: Archive | None = None,
        errors: InternalErrors | None = None,
    ) -> None:
        errors = errors or InternalErrors()
        self._engine_resort = LastResort("engine", errors)
        self._decoder_resort = LastResort("decoder", errors)
        self._loader_resort = LastResort("loader", errors)
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self.progress = 0
        self._context = context
        self._host = SessionHost(model)
        self._max_in_flight = max_in_flight
        self._inbox = Inbox(depth)
        self._under_way: dict[str, _UnderWay] = {}
        # Pendings are steps in flight, which the dispatcher bounds by the inbox's depth.
        self._decodes: queue.Queue[_Decode | None] = queue.Queue(depth + 1)
        loops: dict[str, Callable[[], None]] = {
            "engine": self._engine_loop,
            "decoder": self._decoder_loop,
        }
        self._loader: Loader | None = None
        if archive is not None:
            self._loader = Loader(
                archive,
                model_id=model.spec.model_id,
                weights_sha256=model.spec.weights_sha256,
                depth=depth,
                ready=self._inbox.put,
                resort=self._loader_resort,
            )
            loops["loader"] = partial(self._loader_loop, self._loader)
        self._threads = [
            threading.Thread(target=loop, name=f"sim-stream-{name}", daemon=True)
            for name, loop in loops.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether both threads run; they do until ``shut_down``."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def queued(self) -> int:
        return self._inbox.waiting + (self._loader.waiting if self._loader else 0)

    def submit(self, job: Job) -> bool:
        """False when the inbox is full. For the I/O thread alone."""
        if isinstance(job.request, Resume):
            assert self._loader is not None, "the dispatcher refuses to resume without an archive"
            return self._loader.submit(job)
        return self._inbox.put(job)

    def supersede(self, job: Job) -> Job | None:
        """The waiting step whose place the job takes; None: nothing waits, so ``submit`` it."""
        return self._inbox.supersede(job)

    def shut_down(self) -> list[Job]:
        """Lets the steps under way finish; hands back the jobs that will not run. Does not wait."""
        loading = [] if self._loader is None else self._loader.close()
        return loading + self._inbox.close()

    def join(self, timeout_s: float | None) -> bool:
        """Waits for all threads; False when one is still busy."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if deadline_s is None else max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # Engine thread.

    def _engine_loop(self) -> None:
        with Wake(self._context) as wake:
            while self._go_round(wake):
                pass
        self._decodes.join()
        with self._engine_resort.around("closing all sessions"):
            self._host.close_all()
        self._decodes.put(None)

    def _go_round(self, wake: Wake) -> bool:
        """As ``_serve``; a rest after a round that failed as a whole."""
        try:
            more = self._serve(wake)
        except Exception as error:
            self._engine_resort.caught(error, "a round of the engine's thread")
            time.sleep(self._engine_resort.pause_s())
            return True
        self._engine_resort.well()
        return more

    def _serve(self, wake: Wake) -> bool:
        """The jobs that may run now, and a pass for all steps under way; False: no more come."""
        jobs = self._inbox.take(self._under_way)
        if jobs is None:
            return False
        for job in jobs:
            self._hand_over(self._run(job), wake, self._engine_resort)
        if self._under_way:
            failed = attempt(self._host.advance, what="pass")
            for step in [*self._under_way.values()]:
                self._hand_over(self._go_on(step, failed), wake, self._engine_resort)
        return True

    def _hand_over(self, result: Result | None, wake: Wake, resort: LastResort) -> None:
        """Without a result the job goes on: its step is under way or is being rendered."""
        if result is not None:
            self.progress += 1
            self.results.put(result)
            with resort.around("the I/O thread's bell"):  # unheard it is found a little later
                wake.ring()

    def _run(self, job: Job) -> Result | None:
        try:
            if isinstance(job.request, Step):
                return self._begin(job, job.request)
            if isinstance(job.request, Resume):
                return self._revive(job)
            return self._control(job)
        except Exception as error:
            return self._broken(job, error)

    def _go_on(self, step: _UnderWay, failed: Refusal | None) -> Result | None:
        """After a pass. ``failed``: the pass itself did, for all."""
        try:
            if step.prediction.done or failed is not None:
                return self._finish(step)
        except Exception as error:
            return self._broken(step.job, error)
        return None

    def _broken(self, job: Job, error: Exception) -> Result:
        """Of a job that failed where nothing should: its session may be in any state."""
        self._engine_resort.caught(error, f"{job.kind} {job.sid}", job.ids)
        self._under_way.pop(job.sid, None)
        committed_step = -1
        with self._engine_resort.around(f"the session of {job.kind} {job.sid}", job.ids):
            if isinstance(job.request, Step | Reset):
                self._host.mark_failed(job.sid)
                committed_step = self._host.committed_step(job.sid)
            else:
                self._host.drop(job.sid)
        refusal = Refusal(ErrorCode.ENGINE_FAILED, failure(f"{job.kind} {job.sid}", error))
        return Result(job=job, committed_step=committed_step, refusal=refusal)

    def _begin(self, job: Job, request: Step) -> Result | None:
        """A result when refused."""
        start_ns = time.monotonic_ns()
        prediction = attempt(
            lambda: self._host.begin(job, request, start_ns), what=f"step {job.sid}", ids=job.ids
        )
        if isinstance(prediction, Refusal):
            return self._refused(job, prediction)
        self._under_way[job.sid] = _UnderWay(job, prediction, start_ns)
        return None

    def _finish(self, step: _UnderWay) -> Result | None:
        """A result when it failed; else the decoder thread has it now."""
        job = step.job
        del self._under_way[job.sid]
        if step.rebuild is not None:
            return self._take_again(step, step.rebuild)
        pending = attempt(step.prediction.result, what=f"step {job.sid}", ids=job.ids)
        end_ns = time.monotonic_ns()
        if isinstance(pending, Refusal):
            return self._refused(job, pending)
        assert isinstance(job.request, Step)
        committed_step, seed = job.request.step, self._host.seed(job.sid)
        self._host.took(job.sid, committed_step)
        self._inbox.rendering(job.sid)
        self._decodes.put(_Decode(job, pending, committed_step, seed, step.start_ns, end_ns))
        ahead = attempt(
            lambda: self._host.prefill_ahead(job.sid), what=f"prefill {job.sid}", ids=job.ids
        )
        if isinstance(ahead, Refusal):
            self._host.mark_failed(job.sid)
        return None

    def _revive(self, job: Job) -> Result | None:
        """A result when there is nothing to take again, or it was refused."""
        keep = self._max_in_flight
        rebuild = attempt(
            lambda: self._host.revive(job, keep=keep), what=f"resume {job.sid}", ids=job.ids
        )
        return (
            self._gave_up(job, rebuild)
            if isinstance(rebuild, Refusal)
            else self._take(job, rebuild)
        )

    def _take_again(self, step: _UnderWay, rebuild: Rebuild) -> Result | None:
        """A recorded step has been predicted once more."""
        self.progress += 1
        job, what = step.job, f"resume {step.job.sid}"
        if self._inbox.closed:
            refusal = Refusal(ErrorCode.SHUTTING_DOWN, "the server is shutting down")
            return self._gave_up(job, refusal)
        taken = attempt(lambda: rebuild.take(step.prediction), what=what, ids=job.ids)
        return self._gave_up(job, taken) if isinstance(taken, Refusal) else self._take(job, rebuild)

    def _take(self, job: Job, rebuild: Rebuild) -> Result | None:
        """Begins the next recorded step; a result after the last."""
        what = f"resume {job.sid}"
        prediction = attempt(rebuild.begin, what=what, ids=job.ids)
        if isinstance(prediction, Refusal):
            return self._gave_up(job, prediction)
        if prediction is not None:
            self._under_way[job.sid] = _UnderWay(job, prediction, time.monotonic_ns(), rebuild)
            return None
        remembered = attempt(lambda: rebuild.render(job), what=what, ids=job.ids)
        if isinstance(remembered, Refusal):
            return self._gave_up(job, remembered)
        self._host.took(job.sid, rebuild.committed_step)
        return Result(
            job=job,
            committed_step=rebuild.committed_step,
            past=rebuild.past,
            remembered=remembered,
            seed=rebuild.seed,
            prompt_psnr_db=self._host.prompt_psnr_db(job.sid),
        )

    def _gave_up(self, job: Job, refusal: Refusal) -> Result:
        self._host.drop(job.sid)
        return Result(job=job, committed_step=-1, refusal=refusal)

    def _refused(self, job: Job, refusal: Refusal) -> Result:
        if refusal.code is ErrorCode.ENGINE_FAILED:
            self._host.mark_failed(job.sid)
        committed_step = self._host.committed_step(job.sid)
        return Result(job=job, committed_step=committed_step, refusal=refusal)

    def _control(self, job: Job) -> Result:
        start_ns = time.monotonic_ns()
        chunk = attempt(lambda: self._host.control(job), what=f"{job.kind} {job.sid}", ids=job.ids)
        end_ns = time.monotonic_ns()
        committed_step, seed = self._host.committed_step(job.sid), self._host.seed(job.sid)
        prompt_psnr_db = self._host.prompt_psnr_db(job.sid)
        if isinstance(job.request, Close):
            self._host.forget(job.sid)
        if isinstance(chunk, Refusal):
            if isinstance(job.request, Reset) and chunk.code is ErrorCode.ENGINE_FAILED:
                self._host.mark_failed(job.sid)
            return Result(job=job, committed_step=committed_step, refusal=chunk)
        stamps_ns = {"engine_start": start_ns, "engine_end": end_ns}
        return Result(
            job=job,
            committed_step=committed_step,
            infos=describe(chunk, job, committed_step, seed, stamps_ns) if chunk else (),
            images=chunk.images if chunk else None,
            seed=seed,
            prompt_psnr_db=prompt_psnr_db,
        )

    # Decoder thread.

    def _decoder_loop(self) -> None:
        with Wake(self._context) as wake:
            while (decode := self._decodes.get()) is not None:
                job = decode.job
                try:
                    result = self._render(decode)
                except Exception as error:
                    self._decoder_resort.caught(error, f"decode {job.sid}", job.ids)
                    self._host.mark_failed(job.sid)
                    refusal = Refusal(ErrorCode.ENGINE_FAILED, failure(f"decode {job.sid}", error))
                    result = Result(job=job, committed_step=decode.committed_step, refusal=refusal)
                try:
                    self._inbox.rendered(job.sid)
                except Exception as error:  # what waits for the session's frames must not hang
                    self._decoder_resort.caught(error, f"decode {job.sid}", job.ids)
                    self._host.mark_failed(job.sid)
                    self._inbox.give_up(job.sid)
                self._hand_over(result, wake, self._decoder_resort)
                self._decodes.task_done()
            self.results.put(None)
            wake.ring()

    def _render(self, decode: _Decode) -> Result:
        job, committed_step = decode.job, decode.committed_step
        start_ns = time.monotonic_ns()
        chunk = attempt(
            lambda: self._host.checked(decode.pending.render()),
            what=f"decode {job.sid}",
            ids=job.ids,
        )
        if isinstance(chunk, Refusal):
            self._host.mark_failed(job.sid)
            return Result(job=job, committed_step=committed_step, refusal=chunk)
        stamps_ns = {
            "engine_start": decode.start_ns,
            "engine_end": decode.end_ns,
            "decode_start": start_ns,
            "decode_end": time.monotonic_ns(),
        }
        infos = describe(chunk, job, committed_step, decode.seed, stamps_ns)
        return Result(job=job, committed_step=committed_step, infos=infos, images=chunk.images)

    # Loader thread.

    def _loader_loop(self, loader: Loader) -> None:
        with Wake(self._context) as wake:
            loader.run(lambda result: self._hand_over(result, wake, self._loader_resort))
