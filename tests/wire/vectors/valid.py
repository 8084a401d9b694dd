"""Messages that both sides must take: every type, with and without arrays, and their limits.

Frames are 16x16 so that the bytes stay readable. Knows no files; ``generate`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from sim_stream.wire import messages as m
from sim_stream.wire.framing import pack

SIZE = 16
CONTEXT_MAX = 5
SID = "0011223344556677"
TOKEN = f"{SID}.{'0123456789abcdef' * 2}"
I64_MAX, U64_MAX = 2**63 - 1, 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Valid:
    """``canonical``: what an encoder of this project writes, byte for byte."""

    name: str
    parts: list[bytes]
    message: dict[str, Any]
    canonical: bool = True


@dataclass(frozen=True)
class _Sample:
    name: str
    message: m.Message
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def images(*shape: int) -> np.ndarray:
    """Bytes that count up, so that a mix-up of axes or of bytes shows."""
    count = int(np.prod(shape))
    return (np.arange(count) % 251).astype(np.uint8).reshape(shape)


def fields(message: m.Message) -> dict[str, Any]:
    """All fields as plain values, defaults filled in."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    return plain


FRAMES = {"frames": images(1, SIZE, SIZE, 3)}
LEFT = m.WireAction(speed_mps=8.0, yaw_rate_radps=0.125)
ODD = m.WireAction(speed_mps=0.1, yaw_rate_radps=-0.0)
SAMPLING = m.WireSampling(top_k=10, temperature=0.6)

REQUESTS = (
    _Sample("hello", m.Hello(rid=1)),
    _Sample(
        "hello with a range and capabilities",
        m.Hello(rid=U64_MAX, protocol_min=0, protocol_max=7, capabilities=["resume", ""]),
    ),
    _Sample("open with defaults", m.Open(rid=2), FRAMES),
    _Sample(
        "open with everything",
        m.Open(
            rid=70_000,
            seed=U64_MAX,
            text="",
            sampling=m.WireSampling(top_k=2**31 - 1, temperature=10.0),
            decoding=m.WireDecoding(strategy="jacobi", window=8, k=1),
            actions=[None, LEFT],
            lookahead=0,
            dt_us=250_000,
            idempotency_key="k" * 64,
            record=False,
        ),
        {"frames": images(2, SIZE, SIZE, 3)},
    ),
    _Sample("open with a text beyond ASCII", m.Open(rid=3, text="Straße 東京 🚗"), FRAMES),
    _Sample("reset", m.Reset(rid=4, sid=SID, seed=3, actions=[ODD]), FRAMES),
    _Sample("step without action", m.Step(rid=5, sid=SID, step=1)),
    _Sample("step with action", m.Step(rid=6, sid=SID, step=2, action=LEFT)),
    _Sample(
        "step with everything",
        m.Step(rid=7, sid=SID, step=300, action=ODD, sim_time_us=-5, deadline_ms=250),
    ),
    _Sample(
        "step at the limits",
        m.Step(rid=8, sid="x" * 64, step=I64_MAX, sim_time_us=-I64_MAX - 1, deadline_ms=I64_MAX),
    ),
    _Sample("fork", m.Fork(rid=9, sid=SID)),
    _Sample("fork with a key", m.Fork(rid=9, sid=SID, idempotency_key="0123456789abcdef")),
    _Sample("resume", m.Resume(rid=14, resume_token=TOKEN)),
    _Sample("close", m.Close(rid=10, sid=SID)),
    _Sample("close of an opening", m.Close(rid=13, sid="", idempotency_key="e5f1")),
    _Sample("heartbeat of the connection", m.Heartbeat(rid=11)),
    _Sample("heartbeat of one that waits", m.Heartbeat(rid=14, awaiting=U64_MAX)),
    _Sample("heartbeat of a session", m.Heartbeat(rid=12, sid=SID, client_send_ns=I64_MAX)),
)

FIRST = m.FrameInfo(step=0, frame_id=0, lag_frames=0, final=False, approximated=False)
LATER = m.FrameInfo(
    step=300,
    frame_id=299,
    lag_frames=1,
    final=True,
    approximated=True,
    inflated=True,
    accepted=[1, 2, 253],
    seed=U64_MAX,
    sim_time_us=-5,
    queue_depth=1,
    dropped=70_000,
    timings_ns={"world_model": 90_000_000, "queue": 0},
    stamps_ns={"srv_recv": 2**40, "srv_send": I64_MAX},
)
IMAGE = {"image": images(SIZE, SIZE, 3)}
LIMITS = m.ServerLimits(
    header_bytes=65_536,
    parts=16,
    message_bytes=65_536 + CONTEXT_MAX * SIZE * SIZE * 3,
    max_sessions=4,
    max_in_flight=2,
)
ACTION_SPEC = [
    m.ActionSpec(name="speed_mps", unit="m/s", low=0.0, high=32.0, bins=64, taken="end"),
    m.ActionSpec(name="yaw_rate_radps", unit="rad/s", low=-0.8, high=0.8, bins=61, taken="mean"),
]


def hello_ok(**changes: Any) -> m.HelloOk:
    values: dict[str, Any] = {
        "rid": 1,
        "protocol": 1,
        "server_epoch": "8899aabbccddeeff",
        "model_id": "toy",
        "weights_sha256": "0" * 64,
        "fps_num": 4,
        "fps_den": 1,
        "frame_shape": (SIZE, SIZE, 3),
        "context_min": 1,
        "context_max": CONTEXT_MAX,
        "lookahead": 1,
        "sampling": SAMPLING,
        "action_spec": ACTION_SPEC,
        "limits": LIMITS,
        "lease_ms": 60_000,
        "heartbeat_ms": 1000,
        "resume_steps": 0,
        "camera": m.WireCamera(field_of_view_deg=66.0, up_m=1.9, pitch_down_deg=3.5),
        "prompt_psnr_min_db": 25.0,
        "prompt_psnr_own_db": 28.0,
    }
    return m.HelloOk(**(values | changes))


REPLIES = (
    _Sample("hello_ok", hello_ok()),
    _Sample(
        "hello_ok of a model without actions",
        hello_ok(action_spec=[], fps_num=30_000, fps_den=1001, lookahead=0),
    ),
    _Sample("hello_ok of a server that records", hello_ok(resume_steps=1024)),
    _Sample(
        "hello_ok of weights that say nothing of what they expect",
        hello_ok(
            camera=None,
            prompt_psnr_min_db=None,
            prompt_psnr_own_db=None,
            action_spec=[m.ActionSpec(name="speed_mps", unit="m/s", low=0.0, high=32.0)],
        ),
    ),
    _Sample("opened by open", m.Opened(rid=2, sid=SID, committed_step=0, frame=FIRST), IMAGE),
    _Sample(
        "opened from a foreign prompt",
        m.Opened(rid=2, sid=SID, committed_step=0, frame=FIRST, prompt_psnr_db=14.875),
        IMAGE,
    ),
    _Sample(
        "opened, to be resumed",
        m.Opened(rid=2, sid=SID, committed_step=0, frame=FIRST, resume_token=TOKEN),
        IMAGE,
    ),
    _Sample("opened by fork", m.Opened(rid=9, sid=SID, committed_step=300)),
    _Sample("frame", m.FrameMessage(rid=7, sid=SID, committed_step=300, frame=LATER), IMAGE),
    _Sample(
        "frame of a reset",
        m.FrameMessage(rid=4, sid=SID, committed_step=0, frame=FIRST, prompt_psnr_db=31.5),
        IMAGE,
    ),
    _Sample(
        "closed with the last frame",
        m.Closed(rid=10, sid=SID, committed_step=300, frame=LATER),
        IMAGE,
    ),
    _Sample("closed without", m.Closed(rid=10, sid=SID, committed_step=-1)),
    _Sample(
        "status",
        m.Status(
            rid=11,
            progress=I64_MAX,
            queued=0,
            sessions=1,
            undelivered=2,
            committed_step=300,
            client_send_ns=5,
            srv_recv_ns=6,
            srv_send_ns=7,
            server_epoch="8899aabbccddeeff",
        ),
    ),
    *(
        _Sample(
            f"error {code}",
            m.Error(
                rid=13,
                code=code,
                message="step: got 3; next is 2",
                retryable=code in m.RETRYABLE,
                committed_step=1,
                sid=SID,
            ),
        )
        for code in m.ErrorCode
    ),
    _Sample(
        "farewell",
        m.Error(
            code=m.ErrorCode.SHUTTING_DOWN,
            message="the server is shutting down",
            retryable=True,
        ),
    ),
)


def requests() -> list[Valid]:
    return [*map(_canonical, REQUESTS), *_other_spellings(m.Step(rid=6, sid=SID, step=2))]


def replies() -> list[Valid]:
    (status,) = (sample.message for sample in REPLIES if sample.name == "status")
    return [*map(_canonical, REPLIES), *_other_spellings(status)]


def _canonical(sample: _Sample) -> Valid:
    parts = [bytes(part) for part in pack(sample.message, sample.arrays)]
    specs = msgspec.msgpack.decode(parts[0])["arrays"]
    return Valid(name=sample.name, parts=parts, message=fields(sample.message) | {"arrays": specs})


def _other_spellings(message: m.Message) -> list[Valid]:
    """What other encoders may write for the same message."""
    plain = fields(message)
    spellings = {
        "keys in another order": _packed(dict(reversed(plain.items()))),
        "unknown fields": _packed(plain | {"wings": {"left": [1, None, b"\x00"]}}),
        "wide integers": _packed(plain).replace(b"\xa1v\x01", b"\xa1v\xcf" + bytes(7) + b"\x01"),
        "signed integers": _packed(plain).replace(b"\xa1v\x01", b"\xa1v\xd0\x01"),
        "a long map header": b"\xde" + len(plain).to_bytes(2, "big") + _packed(plain)[1:],
    }
    return [
        Valid(name=f"{plain['t']}: {name}", parts=[header], message=plain, canonical=False)
        for name, header in spellings.items()
    ]


def _packed(plain: dict[str, Any]) -> bytes:
    assert len(plain) < 16, "a longer map has no one-byte header"
    return msgspec.msgpack.encode(plain)
