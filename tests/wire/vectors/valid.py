"""Messages that both sides must take: every type, with and without arrays, and their limits.

Frames are 16x16 so that the bytes stay readable. Knows no files; ``generate`` writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from sim_stream.wire import messages as m
from sim_stream.wire.framing import pack
from tests.wire.vectors.spec import BARE, CLIPS, SIZE, SPEC

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
LEFT: dict[str, float | str] = {"speed_mps": 8.0, "yaw_rate_radps": 0.125}
ODD: dict[str, float | str] = {"speed_mps": 0.1, "yaw_rate_radps": -0.0}
MAP = {"inputs.semantic": images(4, 4)}
HEIGHTS = {"inputs.heights": np.linspace(-1.5, 1.0, 6, dtype="<f4").reshape(2, 3)}

REQUESTS = (
    _Sample("hello", m.Hello(rid=1)),
    _Sample("hello with a range", m.Hello(rid=U64_MAX, protocol_min=0, protocol_max=7)),
    _Sample("open with defaults", m.Open(rid=2), FRAMES),
    _Sample("open from no frame", m.Open(rid=2)),
    _Sample(
        "open with everything",
        m.Open(
            rid=70_000,
            seed=U64_MAX,
            inputs={"text": "", "weather": "rain"},
            prompt_inputs=[{"speed_mps": 0.0}, LEFT],
            options={"strategy": "jacobi", "temperature": 10.0, "top_k": 2.0**31 - 1},
            lookahead=0,
            dt_us=250_000,
            idempotency_key="k" * 64,
            record=False,
        ),
        {
            "frames": images(2, SIZE, SIZE, 3),
            **HEIGHTS,
            "prompt.semantic": images(2, 4, 4) % 16,
        },
    ),
    _Sample(
        "open with a text beyond ASCII", m.Open(rid=3, inputs={"text": "Straße 東京 🚗"}), FRAMES
    ),
    _Sample("reset", m.Reset(rid=4, sid=SID, seed=3, prompt_inputs=[ODD]), FRAMES),
    _Sample("reset from no frame", m.Reset(rid=4, sid=SID, options={"temperature": 0.5}), HEIGHTS),
    _Sample("step without inputs", m.Step(rid=5, sid=SID, step=1)),
    _Sample("step with numbers", m.Step(rid=6, sid=SID, step=2, inputs=LEFT)),
    _Sample("step with an array", m.Step(rid=6, sid=SID, step=3, inputs={"speed_mps": 8.0}), MAP),
    _Sample(
        "step with several arrays",
        m.Step(rid=6, sid=SID, step=4, inputs={"speed_mps": 8.0, "text": "left"}),
        MAP | HEIGHTS | {"inputs.one": np.ones(1, np.uint8)},
    ),
    _Sample(
        "step with everything",
        m.Step(rid=7, sid=SID, step=300, inputs=ODD, sim_time_us=-5, deadline_ms=250),
        MAP,
    ),
    _Sample(
        "step at the limits",
        m.Step(rid=8, sid="x" * 64, step=I64_MAX, sim_time_us=-I64_MAX - 1, deadline_ms=I64_MAX),
    ),
    _Sample("fork", m.Fork(rid=9, sid=SID)),
    _Sample("fork with a seed", m.Fork(rid=9, sid=SID, seed=U64_MAX)),
    _Sample("fork with a key", m.Fork(rid=9, sid=SID, idempotency_key="0123456789abcdef")),
    _Sample("resume", m.Resume(rid=14, resume_token=TOKEN)),
    _Sample("close", m.Close(rid=10, sid=SID)),
    _Sample("close of an opening", m.Close(rid=13, sid="", idempotency_key="e5f1")),
    _Sample("heartbeat of the connection", m.Heartbeat(rid=11)),
    _Sample("heartbeat of one that waits", m.Heartbeat(rid=14, awaiting=U64_MAX)),
    _Sample("heartbeat of a session", m.Heartbeat(rid=12, sid=SID, client_send_ns=I64_MAX)),
)

FIRST = m.FrameInfo(step=0, frame_id=0, lag_frames=0, final=False)
LATER = m.FrameInfo(
    step=300,
    frame_id=299,
    lag_frames=1,
    final=True,
    marks=["approximated", "inflated"],
    stats={"accepted": [1.0, 2.0, 253.0], "none": []},
    seed=U64_MAX,
    sim_time_us=-5,
    queue_depth=1,
    dropped=70_000,
    timings_ns={"queue": 0, "world_model": 90_000_000},
    stamps_ns={"srv_recv": 2**40, "srv_send": I64_MAX},
)
CLIP = [m.FrameInfo(step=2, frame_id=n, lag_frames=0, final=True, seed=7) for n in range(5, 10)]
IMAGE = {"images": images(1, SIZE, SIZE, 3)}
IMAGES = {"images": images(5, SIZE, SIZE, 3)}
LIMITS = m.ServerLimits(
    header_bytes=65_536,
    parts=16,
    message_bytes=65_536 + SPEC.array_bytes,
    max_sessions=4,
    max_in_flight=2,
)


def hello_ok(**changes: Any) -> m.HelloOk:
    values: dict[str, Any] = {
        "rid": 1,
        "protocol": m.VERSION,
        "server_epoch": "8899aabbccddeeff",
        "spec": SPEC,
        "limits": LIMITS,
        "lease_ms": 60_000,
        "heartbeat_ms": 1000,
        "resume_steps": 0,
    }
    return m.HelloOk(**(values | changes))


REPLIES = (
    _Sample("hello_ok", hello_ok()),
    _Sample("hello_ok of a model that takes nothing", hello_ok(spec=BARE)),
    _Sample("hello_ok of a model of clips", hello_ok(spec=CLIPS)),
    _Sample("hello_ok of a server that records", hello_ok(resume_steps=1024)),
    _Sample("opened by open", m.Opened(rid=2, sid=SID, committed_step=0, frames=[FIRST]), IMAGE),
    _Sample("opened from no frame", m.Opened(rid=2, sid=SID, committed_step=0, seed=7)),
    _Sample(
        "opened from a foreign prompt",
        m.Opened(rid=2, sid=SID, committed_step=0, frames=[FIRST], prompt_psnr_db=14.875),
        IMAGE,
    ),
    _Sample(
        "opened, to be resumed",
        m.Opened(rid=2, sid=SID, committed_step=0, frames=[FIRST], resume_token=TOKEN),
        IMAGE,
    ),
    _Sample("opened by fork", m.Opened(rid=9, sid=SID, committed_step=300, seed=U64_MAX)),
    _Sample("a frame", m.FrameMessage(rid=7, sid=SID, committed_step=300, frames=[LATER]), IMAGE),
    _Sample("five frames", m.FrameMessage(rid=7, sid=SID, committed_step=2, frames=CLIP), IMAGES),
    _Sample(
        "frames of a reset",
        m.FrameMessage(rid=4, sid=SID, committed_step=0, frames=[FIRST], prompt_psnr_db=31.5),
        IMAGE,
    ),
    _Sample("a reset to no frame", m.FrameMessage(rid=4, sid=SID, committed_step=0, frames=[])),
    _Sample(
        "closed with the last frame",
        m.Closed(rid=10, sid=SID, committed_step=300, frames=[LATER]),
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
        "shutdown notice",
        m.Error(
            code=m.ErrorCode.SHUTTING_DOWN,
            message="the server is shutting down",
            retryable=True,
        ),
    ),
)


def requests() -> list[Valid]:
    step = m.Step(rid=6, sid=SID, step=2, inputs={"speed_mps": 8.0})
    return [*map(_canonical, REQUESTS), *_other_spellings(step), *_other_numbers(step)]


def replies() -> list[Valid]:
    (status,) = (sample.message for sample in REPLIES if sample.name == "status")
    stats = m.FrameInfo(step=1, frame_id=1, lag_frames=0, final=True, stats={"accepted": [8.0]})
    frame = m.FrameMessage(rid=7, sid=SID, committed_step=1, frames=[stats])
    return [*map(_canonical, REPLIES), *_other_spellings(status), *_other_numbers(frame)]


def _canonical(sample: _Sample) -> Valid:
    parts = [bytes(part) for part in pack(sample.message, sample.arrays)]
    specs = msgspec.msgpack.decode(parts[0])["arrays"]
    return Valid(name=sample.name, parts=parts, message=fields(sample.message) | {"arrays": specs})


def _other_spellings(message: m.Message) -> list[Valid]:
    """What other encoders may write for the same message."""
    plain = fields(message)
    version = b"\xa1v" + bytes([m.VERSION])
    spellings = {
        "keys in another order": _packed(dict(reversed(plain.items()))),
        "unknown fields": _packed(plain | {"wings": {"left": [1, None, b"\x00"]}}),
        "wide integers": _packed(plain).replace(
            version, b"\xa1v\xcf" + bytes(7) + bytes([m.VERSION])
        ),
        "signed integers": _packed(plain).replace(version, b"\xa1v\xd0" + bytes([m.VERSION])),
        "a long map header": b"\xde" + len(plain).to_bytes(2, "big") + _packed(plain)[1:],
    }
    return [_spelled(message, name, header) for name, header in spellings.items()]


def _other_numbers(message: m.Message) -> list[Valid]:
    """The same for the 8.0 that is in the message."""
    header = _packed(fields(message))
    written = b"\xcb" + struct.pack(">d", 8.0)
    assert header.count(written) == 1
    spellings = {
        "a number as an integer": b"\x08",
        "a number as a short float": b"\xca" + struct.pack(">f", 8.0),
    }
    return [
        _spelled(message, name, header.replace(written, other)) for name, other in spellings.items()
    ]


def _spelled(message: m.Message, name: str, header: bytes) -> Valid:
    plain = fields(message)
    return Valid(name=f"{plain['t']}: {name}", parts=[header], message=plain, canonical=False)


def _packed(plain: dict[str, Any]) -> bytes:
    assert len(plain) < 16, "a longer map has no one-byte header"
    return msgspec.msgpack.encode(plain)
