"""What travels between the I/O thread and the engine's threads, and what a failure tells a client.

A job goes out, a result comes back; here alone exceptions become error codes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from sim_stream.errors import InvalidInput, SimStreamError, Unavailable
from sim_stream.spec import NO_INPUTS, Inputs, StreamSpec
from sim_stream.stream_model import Chunk, Image
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import StartValues
from sim_stream.wire.messages import (
    RETRYABLE,
    Close,
    Error,
    ErrorCode,
    Fork,
    FrameInfo,
    Open,
    Reset,
    Resume,
    Step,
)
from sim_stream.wire.observe import NotResumable, Past

T = TypeVar("T")
log = logging.getLogger(__name__)

# Longer texts help nobody and must fit the message's bound.
MESSAGE_CHARS = 1000


class Refusal(SimStreamError):
    """A request that the server refuses; travels to the client as an error message."""

    def __init__(self, code: ErrorCode, message: str, *, committed_step: int = -1) -> None:
        super().__init__(message[:MESSAGE_CHARS])
        self.code = code
        self.message = message[:MESSAGE_CHARS]
        self.committed_step = committed_step

    def to_error(self, *, rid: int, sid: str, committed_step: int) -> Error:
        return Error(
            rid=rid,
            sid=sid,
            code=self.code,
            message=self.message,
            retryable=self.code in RETRYABLE,
            committed_step=committed_step,
        )


def attempt(
    call: Callable[[], T], *, what: str, ids: Mapping[str, object] | None = None
) -> T | Refusal:
    """Runs a call into the engine; whatever it raises comes back as a Refusal.

    ``ids``: of the session, step and request, for the log.
    """
    try:
        return call()
    except Refusal as refusal:
        return refusal
    except NotResumable as error:
        return Refusal(ErrorCode.NO_SESSION, str(error))
    except InvalidInput as error:
        return Refusal(ErrorCode.BAD_MESSAGE, str(error))
    except Unavailable as error:
        return Refusal(ErrorCode.LIMIT, str(error))
    # The engine boundary: models, CUDA and user presets may raise anything, and one session's
    # failure must not end the thread that serves the others.
    except Exception as error:
        log.exception("engine failed: %s", what, extra=ids)
        return Refusal(ErrorCode.ENGINE_FAILED, failure(what, error))


def failure(what: str, error: Exception) -> str:
    """What a client is told of it; an error may fail even at saying what it is."""
    try:
        said = str(error)
    except Exception as another:
        said = f"(its text failed with {type(another).__name__})"
    return f"{what}: {type(error).__name__}: {said}"


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
