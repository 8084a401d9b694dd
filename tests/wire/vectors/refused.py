"""Messages that must be refused, and with which code: broken, hostile, or against the rules.

Requests are what a new server without sessions answers, one of 16x16 frames that takes actions and
1 to 5 context frames. Broken replies have no code: a client ends such a call with an error of its
own. Knows no files; ``generate`` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from sim_stream.wire.messages import ErrorCode
from tests.wire.vectors.valid import IMAGE, LATER, SID, SIZE, TOKEN, fields, hello_ok, images

FRAME = images(1, SIZE, SIZE, 3).tobytes()
NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True, kw_only=True)
class Refused:
    """``code`` is empty for a reply."""

    name: str
    parts: list[bytes]
    code: str = ""


def packed(t: str | None, **plain: Any) -> bytes:
    named = {} if t is None else {"t": t}
    return msgspec.msgpack.encode({"v": 1, "rid": 9} | named | plain)


def spec(**changes: Any) -> dict[str, Any]:
    whole = {"name": "frames", "dtype": "|u1", "shape": [1, SIZE, SIZE, 3], "nbytes": len(FRAME)}
    return whole | {"enc": "raw"} | changes


def opening(array: dict[str, Any] | None = None, /, part: bytes = FRAME, **plain: Any):
    return [packed("open", arrays=[array or spec()], **plain), part]


def step(**plain: Any) -> list[bytes]:
    return [packed("step", **({"sid": SID, "step": 1} | plain))]


def action(**changes: Any) -> dict[str, Any]:
    return {"speed_mps": 1.0, "yaw_rate_radps": 0.0} | changes


# Broken for either side; a map that never ends, lengths that no part could hold.
BROKEN = {
    "empty header": [b""],
    "not msgpack": [b"\xc1\xff\x00"],
    "not a map": [msgspec.msgpack.encode([1, 2, 3])],
    "a huge array length": [b"\x82\xa1v\x01\xa1x\xdd\xff\xff\xff\xff"],
    "a huge map length": [b"\xdf\xff\xff\xff\xff\xa1v"],
    "a huge binary length": [b"\x82\xa1v\x01\xa1x\xc6\xff\xff\xff\xff"],
    "nesting without end": [b"\x82\xa1v\x01\xa1x" + b"\x91" * 2_000 + b"\x01"],
    "a key that is no string": [b"\x82\xa1v\x01\x01\x05"],
    "no type": [packed(None)],
    "an unknown type": [packed("teleport")],
    "a type that is no string": [msgspec.msgpack.encode({"v": 1, "rid": 9, "t": 7})],
}

BAD_REQUESTS = BROKEN | {
    "truncated": [packed("hello")[:-3]],
    "trailing bytes": [packed("hello") + b"\x00"],
    "no version": [msgspec.msgpack.encode({"t": "hello", "rid": 9})],
    "a reply's type": [packed("frame")],
    "bad UTF-8": [b"\x82\xa1v\x01\xa1t\xa1\xff"],
    "negative rid": [packed("hello", rid=-1)],
    "rid as a float": [packed("hello", rid=9.0)],
    "33 capabilities": [packed("hello", capabilities=[""] * 33)],
    "sid of 65 characters": [packed("close", sid="x" * 65)],
    "close without sid": [packed("close")],
    "resume without a token": [packed("resume")],
    "resume_token of 65 characters": [packed("resume", resume_token="x" * 65)],
    "record as a number": opening(record=1),
    "negative step": step(step=-1),
    "step beyond 64 bits signed": step(step=2**63),
    "step as a float": step(step=1.0),
    "step as a boolean": step(step=True),
    "NaN speed": step(action=action(speed_mps=NAN)),
    "infinite yaw rate": step(action=action(yaw_rate_radps=-INF)),
    "half an action": step(action={"speed_mps": 1.0}),
    "action as a list": step(action=[1.0, 0.0]),
    "negative deadline": step(deadline_ms=-1),
    "negative seed": opening(seed=-1),
    "lookahead 2": opening(lookahead=2),
    "temperature 0": opening(sampling={"top_k": 1, "temperature": 0.0}),
    "top_k 0": opening(sampling={"top_k": 0, "temperature": 1.0}),
    "unknown strategy": opening(decoding={"strategy": "greedy"}),
    "text of 4097 characters": opening(text="x" * 4097),
    "257 actions": opening(actions=[None] * 257),
    "unknown mode": opening(mode="warp"),
    "another period": opening(dt_us=1),
    "idempotency_key of 65 characters": opening(idempotency_key="x" * 65),
    "two actions for one frame": opening(actions=[None, None]),
    "open without frames": [packed("open")],
    "frames under another name": opening(spec(name="pixels")),
    "array without its part": opening()[:1],
    "part without its array": [packed("hello"), b"x"],
    "one array twice": [packed("open", arrays=[spec()] * 2), FRAME, FRAME],
    "arrays with a hello": [packed("hello", arrays=[spec()]), FRAME],
    "17 parts": [packed("hello"), *[b""] * 17],
    "float64": opening(spec(dtype="<f8")),
    "float frames": opening(spec(dtype="<f4", nbytes=4 * len(FRAME)), part=FRAME * 4),
    "an unknown encoding": opening(spec(enc="pickle")),
    "nbytes against the shape": opening(spec(nbytes=1)),
    "a shape beyond all memory": opening(spec(shape=[2**31 - 1] * 8, nbytes=2**62)),
    "no bytes in three huge sizes": opening(spec(shape=[2**31 - 1] * 3 + [0], nbytes=0), part=b""),
    "no bytes, huge sizes last": opening(spec(shape=[0] + [2**31 - 1] * 3, nbytes=0), part=b""),
    "no bytes in eight sizes": opening(spec(shape=[0] * 4 + [2**31 - 1] * 4, nbytes=0), part=b""),
    "no bytes in two huge sizes": opening(spec(shape=[2**31 - 1, 2, 0], nbytes=0), part=b""),
    "no floats in a huge size": opening(spec(dtype="<f4", shape=[2**30, 0], nbytes=0), part=b""),
    "a size of 2^31": opening(spec(shape=[2**31, 0], nbytes=0), part=b""),
    "a size of 2^64 - 1": opening(spec(shape=[2**64 - 1, 0], nbytes=0), part=b""),
    "a product that wraps to the part's bytes": opening(
        spec(shape=[2**30, 2**30, 2**4, 1], nbytes=0), part=b""
    ),
    "a hello with no bytes in huge sizes": [
        packed("hello", arrays=[spec(shape=[2**31 - 1] * 3 + [0], nbytes=0)]),
        b"",
    ],
    "a part too short": opening(part=FRAME[:-1]),
    "negative shape": opening(spec(shape=[-1, -SIZE, SIZE, 3])),
    "nine dimensions": opening(spec(shape=[1] * 9, nbytes=1), part=b"x"),
    "three dimensions": opening(spec(shape=[SIZE, SIZE, 3])),
    "frames of another size": opening(spec(shape=[2, SIZE // 2, SIZE, 3])),
    "no frame": opening(spec(shape=[0, SIZE, SIZE, 3], nbytes=0), part=b""),
    "six frames": opening(spec(shape=[6, SIZE, SIZE, 3], nbytes=6 * len(FRAME)), part=FRAME * 6),
}

OTHER_REQUESTS = {
    ErrorCode.VERSION: {
        "header of version 2": [packed("hello", v=2)],
        "type from the future": [packed("beam", v=2)],
        "hello that offers 2 to 3": [packed("hello", protocol_min=2, protocol_max=3)],
    },
    ErrorCode.NO_SESSION: {
        "step of no session": step(),
        "fork of no session": [packed("fork", sid=SID)],
        "reset of no session": [packed("reset", sid=SID, arrays=[spec()]), FRAME],
        "heartbeat of no session": [packed("heartbeat", sid=SID)],
    },
    ErrorCode.LIMIT: {
        "record on a server that does not": opening(record=True),
        "resume on a server that does not record": [packed("resume", resume_token=TOKEN)],
    },
}

IMAGE_BYTES = IMAGE["image"].tobytes()
IMAGE_SPEC = spec(name="image", shape=[SIZE, SIZE, 3], nbytes=len(IMAGE_BYTES))
EMPTY = IMAGE_SPEC | {"nbytes": 0}
FRAME_FIELDS = {"sid": SID, "committed_step": 300, "frame": msgspec.to_builtins(LATER)}
CAMERA = {"field_of_view_deg": 66.0, "up_m": 1.9, "pitch_down_deg": 3.5}
ACTION = {"name": "speed_mps", "unit": "m/s", "low": 0.0, "high": 32.0}
ERROR_FIELDS = {"code": "BUSY", "message": "", "retryable": True}


def framed(array: dict[str, Any] = IMAGE_SPEC, /, part: bytes = IMAGE_BYTES, **changes: Any):
    return [packed("frame", arrays=[array], **(FRAME_FIELDS | changes)), part]


def info(**changes: Any) -> list[bytes]:
    return [msgspec.msgpack.encode(fields(hello_ok()) | changes)]


BAD_REPLIES = BROKEN | {
    "truncated": [info()[0][:-3]],
    "trailing bytes": [info()[0] + b"\x00"],
    "reply of version 2": info(v=2),
    "a request's type": [packed("step", sid=SID, step=1)],
    "rid as a string": info(rid="1"),
    "frame shape of two numbers": info(frame_shape=[SIZE, SIZE]),
    "frames of no pixels": info(frame_shape=[0, SIZE, 3]),
    "frames of four channels": info(frame_shape=[SIZE, SIZE, 4]),
    "frames beyond any reply": info(frame_shape=[2**62, 2**62, 3]),
    "context that is none": info(context_min=0),
    "context upside down": info(context_min=6, context_max=5),
    "no step in flight": info(limits=fields(hello_ok())["limits"] | {"max_in_flight": 0}),
    "a lease of 0": info(lease_ms=0),
    "heartbeats without a pause": info(heartbeat_ms=0),
    "another protocol chosen": info(protocol=2),
    "an action without bounds": info(
        action_spec=[{"name": "speed_mps", "unit": "m/s", "low": 0.0, "high": INF}]
    ),
    "an action upside down": info(
        action_spec=[{"name": "speed_mps", "unit": "m/s", "low": 1.0, "high": 0.0}]
    ),
    "0 frames a second": info(fps_num=0),
    "an unknown frame encoding": info(frame_encoding="bgr8"),
    "limits as a list": info(limits=[65_536, 16, 1, 1, 1]),
    "camera as a list": info(camera=[66.0, 1.9, 3.5]),
    "camera without its height": info(camera={"field_of_view_deg": 66.0, "pitch_down_deg": 3.5}),
    "camera of an infinite height": info(camera=CAMERA | {"up_m": INF}),
    "least PSNR as text": info(prompt_psnr_min_db="25"),
    "least PSNR that is no number": info(prompt_psnr_min_db=NAN),
    "action bins below 0": info(action_spec=[ACTION | {"bins": -1}]),
    "prompt's PSNR without bound": framed(prompt_psnr_db=INF),
    "prompt's PSNR that is no number": framed(prompt_psnr_db=NAN),
    "frame without its fields": framed(frame={"step": 1}),
    "frame that is null": framed(frame=None),
    "negative frame id": framed(frame=FRAME_FIELDS["frame"] | {"frame_id": -1}),
    "final as a number": framed(frame=FRAME_FIELDS["frame"] | {"final": 1}),
    "timings as a list": framed(frame=FRAME_FIELDS["frame"] | {"timings_ns": [1]}),
    "an unknown code": [packed("error", **(ERROR_FIELDS | {"code": "TEAPOT"}))],
    "message of 4097 characters": [packed("error", **(ERROR_FIELDS | {"message": "x" * 4097}))],
    "array without its part": framed()[:1],
    "part without its array": [*info(), b"x"],
    "one array twice": [
        packed("frame", arrays=[IMAGE_SPEC] * 2, **FRAME_FIELDS),
        IMAGE_BYTES,
        IMAGE_BYTES,
    ],
    "17 parts": [*info(), *[b""] * 17],
    "float64": framed(IMAGE_SPEC | {"dtype": "<f8"}),
    "nbytes against the shape": framed(IMAGE_SPEC | {"nbytes": 1}),
    "a shape beyond all memory": framed(IMAGE_SPEC | {"shape": [2**31 - 1] * 8, "nbytes": 2**62}),
    "no bytes in three huge sizes": framed(EMPTY | {"shape": [2**31 - 1] * 3 + [0]}, part=b""),
    "no bytes, huge sizes last": framed(EMPTY | {"shape": [0] + [2**31 - 1] * 3}, part=b""),
    "no bytes in eight sizes": framed(EMPTY | {"shape": [0] * 4 + [2**31 - 1] * 4}, part=b""),
    "no bytes in two huge sizes": framed(EMPTY | {"shape": [2**31 - 1, 2, 0]}, part=b""),
    "no floats in a huge size": framed(EMPTY | {"dtype": "<f4", "shape": [2**30, 0]}, part=b""),
    "a size of 2^31": framed(EMPTY | {"shape": [2**31, 0]}, part=b""),
    "a product that wraps to the part's bytes": framed(
        EMPTY | {"shape": [2**30, 2**30, 2**4]}, part=b""
    ),
    "hello_ok with no bytes in huge sizes": [
        *info(arrays=[EMPTY | {"shape": [2**31 - 1] * 3 + [0]}]),
        b"",
    ],
    "a part too short": framed(part=IMAGE_BYTES[:-1]),
}


def requests() -> list[Refused]:
    found = [
        Refused(name=name, parts=parts, code=ErrorCode.BAD_MESSAGE.value)
        for name, parts in BAD_REQUESTS.items()
    ]
    return found + [
        Refused(name=name, parts=parts, code=code.value)
        for code, vectors in OTHER_REQUESTS.items()
        for name, parts in vectors.items()
    ]


def replies() -> list[Refused]:
    return [Refused(name=name, parts=parts) for name, parts in BAD_REPLIES.items()]
