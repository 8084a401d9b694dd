"""Every message of the protocol as a typed, bounded structure (bridge/PROTOCOL.md).

A message is a msgpack map. ``v`` is the protocol's major version, ``t`` the type, ``rid`` the
request id that a reply repeats, ``arrays`` describes the parts that follow. Unknown fields are
ignored, unknown types, non-finite numbers and integers beyond 64 bits are refused. Decoding is
typed (msgspec), so a hostile header cannot allocate more than a small multiple of its own size.

Does not know about bytes (``codec``), sockets, sessions or pixels.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from sim_stream.spec import MAX_TEXT_CHARS, StreamSpec

VERSION = 2

# msgpack's widest integer is 64 bits; msgspec's bounds are checked as signed 64 bits.
U64 = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
SessionId = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Nanoseconds = Annotated[dict[Name, Count], Meta(max_length=32)]
Epoch = Annotated[str, Meta(max_length=64)]
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=8)]


class ErrorCode(StrEnum):
    """Why a request was refused; see ``RETRYABLE``."""

    BAD_MESSAGE = "BAD_MESSAGE"
    VERSION = "VERSION"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    NO_SESSION = "NO_SESSION"
    STEP_CONFLICT = "STEP_CONFLICT"
    ENGINE_FAILED = "ENGINE_FAILED"
    INTERNAL = "INTERNAL"
    LIMIT = "LIMIT"
    BUSY = "BUSY"
    DEADLINE = "DEADLINE"
    DROPPED = "DROPPED"
    SHUTTING_DOWN = "SHUTTING_DOWN"


# The same request may succeed a little later.
RETRYABLE = frozenset({ErrorCode.BUSY, ErrorCode.DEADLINE, ErrorCode.SHUTTING_DOWN})


def require_finite(field: str, value: float) -> None:
    """A float without bounds may be NaN. Raises ValueError, which msgspec reports as its own."""
    if not math.isfinite(value):
        raise ValueError(f"{field}: got {value}; allowed: a finite number")


def require_decibels(field: str, value: float | None) -> None:
    """Null, or a number. Raises ValueError."""
    if value is not None:
        require_finite(field, value)


class ArraySpec(Struct, frozen=True, kw_only=True):
    """One part after the header: C-contiguous, little-endian."""

    name: Name
    dtype: Literal["|u1", "<f4"]
    shape: Shape
    nbytes: Count


Arrays = Annotated[list[ArraySpec], Meta(max_length=16)]


# Of a session or a step, by name; arrays travel beside the message as ``inputs.NAME``.
Values = Annotated[dict[Name, float | Text], Meta(max_length=32)]


class Message(Struct, frozen=True, kw_only=True, tag_field="t"):
    """What every message carries. A request's ``rid`` comes back in its reply."""

    v: int = VERSION
    rid: U64 = 0
    arrays: Arrays = []


MODES = ("lockstep", "realtime")


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Asks who is there. The server picks a major version within the client's range."""

    protocol_min: Count = VERSION
    protocol_max: Count = VERSION


class Start(Message, frozen=True, kw_only=True):
    """What a session starts from: the fields that ``open`` and ``reset`` share.

    Prompt frames are the array ``frames``, ``|u1`` [T, H, W, 3], left out where there are none.
    ``inputs`` are the session's, their arrays ``inputs.NAME``. ``prompt_inputs``: nothing, or one
    map a prompt frame, the step inputs that led to it; their arrays are ``prompt.NAME``, [T, ...].
    ``options`` left out are as ``hello_ok.spec`` says. All are checked by the spec.
    """

    seed: U64 = 0
    inputs: Values = {}
    prompt_inputs: Annotated[list[Values], Meta(max_length=256)] = []
    options: Values = {}


class Open(Start, frozen=True, kw_only=True, tag="open"):
    """A new session. ``dt_us`` is the period the client expects; null takes the server's.

    ``mode``: in lockstep every step is taken; in realtime the newest, once a period (``MODES``).
    ``lookahead``: one of the spec's, null its first. ``idempotency_key`` makes it repeatable: the
    same open with the same key brings the same session. ``record``: whether the server records the
    session; null is as it records all.
    """

    mode: Name = "lockstep"
    lookahead: Annotated[int, Meta(ge=0, le=16)] | None = None
    dt_us: Count | None = None
    idempotency_key: Name = ""
    record: bool | None = None


class Reset(Start, frozen=True, kw_only=True, tag="reset"):
    """Starts the same session anew; its step counter returns to 0."""

    sid: SessionId


class Step(Message, frozen=True, kw_only=True, tag="step"):
    """Predicts what follows under ``inputs``. Repeating it brings the same reply again.

    In lockstep it is the one after the last, in realtime any later one. Arrays: ``inputs.NAME``.
    ``deadline_ms`` counts from the server's receipt: a step that waited longer is refused; a model
    that can ships what it has when time is up, marked ``approximated``.
    """

    sid: SessionId
    step: Count
    inputs: Values = {}
    sim_time_us: I64 | None = None
    deadline_ms: Count | None = None


class Fork(Message, frozen=True, kw_only=True, tag="fork"):
    """A second session that continues from this one's committed step.

    ``seed``: of its further noise; null goes on with the parent's, so that equal inputs give equal
    frames. ``idempotency_key`` as in open.
    """

    sid: SessionId
    seed: U64 | None = None
    idempotency_key: Name = ""


class Resume(Message, frozen=True, kw_only=True, tag="resume"):
    """Brings back a session of the server, or of the one before it, from its recording."""

    resume_token: Name


class Close(Message, frozen=True, kw_only=True, tag="close"):
    """Ends a session; closing it again is no error.

    With an ``idempotency_key`` and no ``sid``: the session that this key opened, or is opening,
    whose ``opened`` its client does not wait for any more.
    """

    sid: SessionId
    idempotency_key: Name = ""


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Shows whether the engine moves; answered by ``status``. Keeps the session's lease alive.

    ``awaiting``: the ``rid`` of a request of this connection, to know whether its reply will come.
    """

    sid: SessionId = ""
    client_send_ns: Count = 0
    awaiting: U64 = 0


class FrameInfo(Struct, frozen=True, kw_only=True):
    """One predicted frame, whose pixels are one of the array ``images``, ``|u1`` [N, H, W, 3].

    ``step`` is the one that it left with, ``lag_frames`` how many frames later than predicted.
    ``final`` is False when the frame comes again, revised. ``marks``: ``approximated`` (it may
    differ from what exact decoding gives), ``inflated`` (made by a video decoder that was never
    trained in time), or a model's own. ``stats``: a model's counts for the step. ``dropped``: steps
    of the session, so far, that were superseded by newer ones. ``timings_ns`` has a duration per
    stage, ``stamps_ns`` the server's monotonic clock.
    """

    step: Count
    frame_id: Count
    lag_frames: Count
    final: bool
    marks: Annotated[list[Name], Meta(max_length=16)] = []
    stats: Annotated[
        dict[Name, Annotated[list[float], Meta(max_length=65536)]], Meta(max_length=16)
    ] = {}
    seed: U64 = 0
    sim_time_us: I64 | None = None
    queue_depth: Count = 0
    dropped: Count = 0
    timings_ns: Nanoseconds = {}
    stamps_ns: Nanoseconds = {}

    def __post_init__(self) -> None:
        for name, values in self.stats.items():
            if not math.isfinite(sum(values)):
                require_finite(f"stats.{name}", sum(values))


Frames = Annotated[list[FrameInfo], Meta(max_length=256)]


class ServerLimits(Struct, frozen=True, kw_only=True):
    """What the server refuses to exceed."""

    header_bytes: Count
    parts: Count
    message_bytes: Count
    max_sessions: Count
    max_in_flight: Count


class HelloOk(Message, frozen=True, kw_only=True, tag="hello_ok"):
    """Who the server is, what it runs and takes (``spec.StreamSpec``).

    ``heartbeat_ms``: how often a client that waits asks whether the server is still the same.
    ``resume_steps``: how many of its last steps a client must remember so that none is lost when
    the server is restarted; 0: it does not record, so sessions end with it.
    """

    protocol: Count
    server_epoch: Epoch
    spec: StreamSpec
    limits: ServerLimits
    lease_ms: Count
    heartbeat_ms: Count
    resume_steps: Count


class Opened(Message, frozen=True, kw_only=True, tag="opened"):
    """A session stands. ``frames``: what its prompt looks like, by the model; none after ``fork``
    and ``resume``, and where there was no prompt frame.

    ``seed``: of its noise from here on. ``resume_token``: brings it back after a restart; empty
    where it is not recorded. ``prompt_psnr_db``: how close the last prompt frame is to frame 0, its
    reconstruction; null where the model has none.
    """

    sid: SessionId
    committed_step: I64
    seed: U64 = 0
    frames: Frames = []
    resume_token: Name = ""
    prompt_psnr_db: float | None = None

    def __post_init__(self) -> None:
        require_decibels("prompt_psnr_db", self.prompt_psnr_db)


class FrameMessage(Message, frozen=True, kw_only=True, tag="frames"):
    """The reply to ``step`` and ``reset``; after a reset with ``prompt_psnr_db``."""

    sid: SessionId
    committed_step: I64
    frames: Frames
    prompt_psnr_db: float | None = None

    def __post_init__(self) -> None:
        require_decibels("prompt_psnr_db", self.prompt_psnr_db)


class Closed(Message, frozen=True, kw_only=True, tag="closed"):
    """The session is gone. ``frames``: the last ones, that the lookahead held, if any."""

    sid: SessionId
    committed_step: I64
    frames: Frames = []


class Status(Message, frozen=True, kw_only=True, tag="status"):
    """The reply to ``heartbeat``: ``progress`` counts finished jobs, so a hung engine shows.

    ``server_epoch`` shows a client that waits that another server has come, ``pending`` repeats
    the heartbeat's ``awaiting`` while that request waits or is computed; else it is 0.
    """

    server_epoch: Epoch
    progress: Count
    queued: Count
    sessions: Count
    undelivered: Count
    committed_step: I64
    client_send_ns: Count
    srv_recv_ns: Count
    srv_send_ns: Count
    pending: U64 = 0


class Error(Message, frozen=True, kw_only=True, tag="error"):
    """A request was refused. ``rid`` 0: concerns the connection, not one request."""

    code: ErrorCode
    message: Annotated[str, Meta(max_length=4096)]
    retryable: bool
    committed_step: I64 = -1
    sid: SessionId = ""


Request = Hello | Open | Reset | Step | Fork | Resume | Close | Heartbeat
Reply = HelloOk | Opened | FrameMessage | Closed | Status | Error
REQUEST_TYPES = "hello, open, reset, step, fork, resume, close, heartbeat"
