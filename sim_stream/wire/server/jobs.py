"""What travels between the I/O thread and the engine's threads: a job out, a result back.

Knows no queues, threads or sockets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sim_stream.spec import NO_INPUTS, Inputs, StreamSpec
from sim_stream.stream_model import Chunk, Image
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import StartValues
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

    ``start``: what an open or reset starts from, ``inputs``: a step's; ``arrays``: as they came,
    for whoever watches. ``pace``: of a step in realtime. ``past``: of a session that is resumed,
    once it is loaded.
    """

    sid: str
    request: JobRequest
    t_recv_ns: int
    route: bytes | None = None  # None: nobody waits, the lease ran out
    start: StartValues | None = None
    inputs: Inputs = field(default_factory=lambda: NO_INPUTS)
    arrays: Arrays = field(default_factory=dict)
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
    arrays: Arrays
    infos: list[FrameInfo]
    images: Image


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a job ended. ``committed_step`` is the session's, -1 where none exists.

    ``infos`` and ``images`` [N, H, W, 3]: the frames that leave, if any. ``past`` and
    ``remembered``: of a session that was resumed. ``seed`` and ``prompt_psnr_db``: of one that
    begins.
    """

    job: Job
    committed_step: int
    infos: Sequence[FrameInfo] = ()
    images: Image | None = None
    refusal: Refusal | None = None
    past: Past | None = None
    remembered: Sequence[Remembered] = ()
    seed: int = 0
    prompt_psnr_db: float | None = None


def checked(chunk: Chunk, spec: StreamSpec) -> Chunk:
    """Holds the model to its contract here, where a failure is the session's alone."""
    images, most = chunk.images, max(spec.frames_per_step, spec.prompt_frames[1])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != spec.frame_shape:
        given = f"{images.dtype} {images.shape}"
        raise TypeError(
            f"frames are {given}, not uint8 [N, {', '.join(map(str, spec.frame_shape))}]"
        )
    if not 1 <= len(images) <= most:
        raise TypeError(f"a chunk of {len(images)} frames, not 1..{most}")
    if chunk.prompt_psnr_db is not None and not math.isfinite(chunk.prompt_psnr_db):
        raise TypeError(f"prompt_psnr_db is {chunk.prompt_psnr_db}, not a finite number")
    return chunk


def describe(
    chunk: Chunk, job: Job, step: int, seed: int, stamps_ns: dict[str, int]
) -> list[FrameInfo]:
    """Its frames' header fields, with the time its job waited in the server's two queues.

    ``step``: as its client counts, which in realtime leaves numbers out.
    """
    timings_ns = {stage: int(duration) for stage, duration in chunk.timings_ns.items()}
    timings_ns["queue"] = stamps_ns["engine_start"] - job.t_recv_ns
    if "decode_start" in stamps_ns:
        timings_ns["decode_queue"] = stamps_ns["decode_start"] - stamps_ns["engine_end"]
    stamps_ns = {"srv_recv": job.t_recv_ns, **stamps_ns}
    marks, stats = sorted(chunk.marks), {name: list(some) for name, some in chunk.stats.items()}
    sim_time_us = job.request.sim_time_us if isinstance(job.request, Step) else None
    return [
        FrameInfo(
            step=step,
            frame_id=chunk.first_frame_id + index,
            lag_frames=chunk.lag_frames,
            final=chunk.final,
            marks=marks,
            stats=stats,
            seed=seed,
            sim_time_us=sim_time_us,
            timings_ns=timings_ns,
            stamps_ns=stamps_ns,
        )
        for index in range(len(chunk.images))
    ]
