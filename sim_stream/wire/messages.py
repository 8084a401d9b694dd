"""Every message of the protocol as a typed, bounded structure (facts/bridge.md's table).

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

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.expects import CameraPose

VERSION = 1

# msgpack's widest integer is 64 bits; msgspec's bounds are checked as signed 64 bits.
U64 = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
SessionId = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=4096)]
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
    enc: Literal["raw"] = "raw"


Arrays = Annotated[list[ArraySpec], Meta(max_length=16)]


class WireAction(Struct, frozen=True, kw_only=True):
    """The ego motion that leads to a frame; yaw rate positive to the left."""

    speed_mps: float
    yaw_rate_radps: float

    def __post_init__(self) -> None:
        require_finite("action.speed_mps", self.speed_mps)
        require_finite("action.yaw_rate_radps", self.yaw_rate_radps)

    @classmethod
    def of(cls, action: Action | None) -> WireAction | None:
        if action is None:
            return None
        return cls(speed_mps=float(action.speed_mps), yaw_rate_radps=float(action.yaw_rate_radps))

    def to_action(self) -> Action:
        return Action(speed_mps=self.speed_mps, yaw_rate_radps=self.yaw_rate_radps)


class WireSampling(Struct, frozen=True, kw_only=True):
    """How tokens are drawn (``config.SamplingConfig``)."""

    top_k: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    temperature: Annotated[float, Meta(gt=0, le=10)]

    @classmethod
    def of(cls, sampling: SamplingConfig | None) -> WireSampling | None:
        if sampling is None:
            return None
        return cls(top_k=int(sampling.top_k), temperature=float(sampling.temperature))

    def to_config(self) -> SamplingConfig:
        return SamplingConfig(top_k=self.top_k, temperature=self.temperature)


class WireDecoding(Struct, frozen=True, kw_only=True):
    """How a frame's codes are found (``config.DecodingConfig``)."""

    strategy: Literal["raster", "jacobi", "diagonal"]
    window: Annotated[int, Meta(ge=1, le=2**31 - 1)] = DecodingConfig.window
    k: Annotated[int, Meta(ge=1, le=2**31 - 1)] = DecodingConfig.k

    def to_config(self) -> DecodingConfig:
        return DecodingConfig(strategy=self.strategy, window=self.window, k=self.k)


Actions = Annotated[list[WireAction | None], Meta(max_length=256)]


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
    capabilities: Annotated[list[Name], Meta(max_length=32)] = []


class Start(Message, frozen=True, kw_only=True):
    """What a session starts from: the fields that ``open`` and ``reset`` share.

    One array ``frames``, ``|u1`` [T, H, W, 3]. ``actions`` has one entry per context frame, the
    action that led to it. Null means: the preset's prompt, the server's sampling and
    decoding, unknown actions.
    """

    seed: U64 = 0
    text: Text | None = None
    sampling: WireSampling | None = None
    decoding: WireDecoding | None = None
    actions: Actions | None = None


class Open(Start, frozen=True, kw_only=True, tag="open"):
    """A new session. ``dt_us`` is the period the client expects; null takes the server's.

    ``mode``: in lockstep every step is taken; in realtime the newest, once a period (``MODES``).
    ``open_key`` makes it repeatable: the same open with the same key brings the same session.
    ``record``: whether the server records the session; null is as it records all.
    """

    mode: Name = "lockstep"
    lookahead: Literal[0, 1] | None = None
    dt_us: Count | None = None
    open_key: Name = ""
    record: bool | None = None


class Reset(Start, frozen=True, kw_only=True, tag="reset"):
    """Starts the same session anew; its step counter returns to 0."""

    sid: SessionId


class Step(Message, frozen=True, kw_only=True, tag="step"):
    """Predicts frame ``step`` under ``action``. Repeating it brings the same reply again.

    In lockstep it is the one after the last, in realtime any later one.
    ``deadline_ms`` counts from the server's receipt: a step that waited longer is refused; jacobi
    decoding also ships the codes it has when time is up, marked ``approximated``.
    """

    sid: SessionId
    step: Count
    action: WireAction | None = None
    sim_time_us: I64 | None = None
    deadline_ms: Count | None = None


class Fork(Message, frozen=True, kw_only=True, tag="fork"):
    """A second session that continues from this one's committed step; ``open_key`` as in open."""

    sid: SessionId
    open_key: Name = ""


class Resume(Message, frozen=True, kw_only=True, tag="resume"):
    """Brings back a session of the server, or of the one before it, from its recording."""

    resume_token: Name


class Close(Message, frozen=True, kw_only=True, tag="close"):
    """Ends a session; closing it again is no error.

    With an ``open_key`` and no ``sid``: the session that this key opened, or is opening, whose
    ``opened`` its client does not wait for any more.
    """

    sid: SessionId
    open_key: Name = ""


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Shows whether the engine moves; answered by ``status``. Keeps the session's lease alive.

    ``awaiting``: the ``rid`` of a request of this connection, to know whether its reply will come.
    """

    sid: SessionId = ""
    client_send_ns: Count = 0
    awaiting: U64 = 0


class FrameInfo(Struct, frozen=True, kw_only=True):
    """One predicted frame, whose pixels are the array ``image``, ``|u1`` [H, W, 3].

    ``lag_frames`` = step - frame_id. ``final`` is False when the frame comes again, revised.
    ``approximated``: its codes or its neighbours' may be others than raster decoding's.
    ``inflated``: drawn by a video decoder that was never trained in time.
    ``accepted``: codes that each pass of the world model added in this step.
    ``dropped``: steps of the session, so far, that gave way to newer ones.
    ``timings_ns`` has a duration per stage, ``stamps_ns`` the server's monotonic clock.
    """

    step: Count
    frame_id: Count
    lag_frames: Count
    final: bool
    approximated: bool
    inflated: bool = False
    accepted: Annotated[list[Count], Meta(max_length=65536)] = []
    seed: U64 = 0
    sim_time_us: I64 | None = None
    queue_depth: Count = 0
    dropped: Count = 0
    timings_ns: Nanoseconds = {}
    stamps_ns: Nanoseconds = {}


class ActionSpec(Struct, frozen=True, kw_only=True):
    """One number of an action; values beyond ``low`` and ``high`` are clamped by the model.

    ``bins``: how many values the model tells apart, 0 where it is not known. ``taken``: how it was
    taken in training, "end" (at the frame that the action leads to) or "mean" (over the time since
    the frame before); "" where the weights do not say.
    """

    name: Name
    unit: Name
    low: float
    high: float
    bins: Count = 0
    taken: Name = ""


class WireCamera(Struct, frozen=True, kw_only=True):
    """The camera of the training frames (``expects.CameraPose``)."""

    field_of_view_deg: float
    up_m: float
    pitch_down_deg: float

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            require_finite(f"camera.{name}", getattr(self, name))

    @classmethod
    def of(cls, camera: CameraPose | None) -> WireCamera | None:
        if camera is None:
            return None
        return cls(
            field_of_view_deg=float(camera.field_of_view_deg),
            up_m=float(camera.up_m),
            pitch_down_deg=float(camera.pitch_down_deg),
        )


class ServerLimits(Struct, frozen=True, kw_only=True):
    """What the server refuses to exceed."""

    header_bytes: Count
    parts: Count
    message_bytes: Count
    max_sessions: Count
    max_in_flight: Count


class HelloOk(Message, frozen=True, kw_only=True, tag="hello_ok"):
    """Who the server is, what it runs and takes. Without ``action_spec`` it takes no actions.

    ``heartbeat_ms``: how often a client that waits asks whether the server is still the same.
    ``resume_steps``: how many of its last steps a client must remember so that none is lost when
    the server is restarted; 0: it does not record, so sessions end with it.
    ``camera``: that of the frames the model was trained on. ``prompt_psnr_min_db``: a prompt whose
    ``opened.prompt_psnr_db`` is below it is foreign to the model, ``prompt_psnr_own_db``: what its
    own world reaches. Null: the weights do not say.
    """

    protocol: Count
    server_epoch: Epoch
    model_id: Annotated[str, Meta(max_length=256)]
    weights_sha256: Annotated[str, Meta(max_length=128)]
    fps_num: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    fps_den: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    frame_shape: tuple[Count, Count, Count]
    frame_encoding: Literal["rgb8"] = "rgb8"
    context_min: Count
    context_max: Count
    lookahead: Count
    sampling: WireSampling
    action_spec: Annotated[list[ActionSpec], Meta(max_length=16)]
    limits: ServerLimits
    lease_ms: Count
    heartbeat_ms: Count
    resume_steps: Count
    camera: WireCamera | None = None
    prompt_psnr_min_db: float | None = None
    prompt_psnr_own_db: float | None = None

    def __post_init__(self) -> None:
        require_decibels("prompt_psnr_min_db", self.prompt_psnr_min_db)
        require_decibels("prompt_psnr_own_db", self.prompt_psnr_own_db)

    @property
    def fps(self) -> float:
        return self.fps_num / self.fps_den

    @property
    def takes_actions(self) -> bool:
        return bool(self.action_spec)


class Opened(Message, frozen=True, kw_only=True, tag="opened"):
    """A session stands. ``frame`` is its first frame; null after ``fork`` and ``resume``.

    ``resume_token``: brings it back after a restart; empty where it is not recorded.
    ``prompt_psnr_db``: how close the last prompt frame is to frame 0, its reconstruction.
    """

    sid: SessionId
    committed_step: I64
    frame: FrameInfo | None = None
    resume_token: Name = ""
    prompt_psnr_db: float | None = None

    def __post_init__(self) -> None:
        require_decibels("prompt_psnr_db", self.prompt_psnr_db)


class FrameMessage(Message, frozen=True, kw_only=True, tag="frame"):
    """The reply to ``step`` and ``reset``; after a reset with ``prompt_psnr_db``."""

    sid: SessionId
    committed_step: I64
    frame: FrameInfo
    prompt_psnr_db: float | None = None

    def __post_init__(self) -> None:
        require_decibels("prompt_psnr_db", self.prompt_psnr_db)


class Closed(Message, frozen=True, kw_only=True, tag="closed"):
    """The session is gone. ``frame`` is the last one that the lookahead held, if any."""

    sid: SessionId
    committed_step: I64
    frame: FrameInfo | None = None


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
