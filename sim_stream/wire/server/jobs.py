"""What travels between the I/O thread and the engine's threads: a job out, a result back.

Knows no queues, threads or sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim_stream.wire import engine
from sim_stream.wire.messages import Close, Fork, FrameInfo, Open, Reset, Resume, Step
from sim_stream.wire.observe import Past
from sim_stream.wire.server.faults import Refusal

JobRequest = Open | Reset | Step | Fork | Resume | Close


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Of a realtime session: a step a period at most, with at most ``ahead`` frames unrendered."""

    period_ns: int
    ahead: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request on its way through the engine. ``sid`` is the session it makes or concerns.

    ``pace``: of a step in realtime. ``past``: of a session that is resumed, once it is loaded.
    """

    sid: str
    request: JobRequest
    t_recv_ns: int
    route: bytes | None = None  # None: nobody waits, the lease ran out
    frames: engine.Image | None = None
    pace: Pace | None = None
    past: Past | None = None

    @property
    def kind(self) -> str:
        return type(self.request).__name__.lower()

    @property
    def ids(self) -> dict[str, object]:
        """What log records about it carry."""
        ids: dict[str, object] = {"sid": self.sid, "rid": self.request.rid}
        return ids | {"step": self.request.step} if isinstance(self.request, Step) else ids


@dataclass(frozen=True)
class Remembered:
    """A step that was taken before, with its reply."""

    request: Step
    info: FrameInfo
    image: engine.Image


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job ended. ``committed_step`` is the session's, -1 where none exists.

    ``past`` and ``remembered``: of a session that was resumed. ``prompt_psnr_db``: of one that
    begins.
    """

    job: Job
    committed_step: int
    info: FrameInfo | None = None
    image: engine.Image | None = None
    refusal: Refusal | None = None
    past: Past | None = None
    remembered: Sequence[Remembered] = ()
    prompt_psnr_db: float | None = None


def checked(frame: engine.Frame) -> engine.Frame:
    """Holds the runtime to its protocol here, where a failure is the session's alone."""
    if frame.image.dtype != np.uint8 or frame.image.ndim != 3:
        raise TypeError(f"frame is {frame.image.dtype} {frame.image.shape}, not uint8 [H, W, 3]")
    return frame


def describe(
    frame: engine.Frame, job: Job, step: int, seed: int, stamps_ns: dict[str, int]
) -> FrameInfo:
    """A frame's header fields, with the time its job waited in the server's two queues.

    ``step``: as its client counts, which in realtime leaves numbers out.
    """
    timings_ns = {stage: int(duration) for stage, duration in frame.timings_ns.items()}
    timings_ns["queue"] = stamps_ns["engine_start"] - job.t_recv_ns
    if "decode_start" in stamps_ns:
        timings_ns["decode_queue"] = stamps_ns["decode_start"] - stamps_ns["engine_end"]
    return FrameInfo(
        step=step,
        frame_id=frame.frame_id,
        lag_frames=frame.lag_frames,
        final=frame.final,
        approximated=frame.approximated,
        inflated=frame.inflated,
        accepted=list(frame.accepted),
        seed=seed,
        sim_time_us=job.request.sim_time_us if isinstance(job.request, Step) else None,
        timings_ns=timings_ns,
        stamps_ns={"srv_recv": job.t_recv_ns, **stamps_ns},
    )
