"""Replies that must be refused: malformed, out of bounds, or of a model that cannot be.

They have no code: a client ends such a call with an error of its own. Knows no files; ``generate``
writes them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tests.wire.vectors.refused import BROKEN, INF, NAN, Refused, array, packed
from tests.wire.vectors.valid import IMAGE, LATER, SID, SIZE, fields, hello_ok

IMAGE_BYTES = IMAGE["images"].tobytes()
IMAGES = array(name="images", shape=[1, SIZE, SIZE, 3], nbytes=len(IMAGE_BYTES))
EMPTY = IMAGES | {"nbytes": 0}
INFO = msgspec.to_builtins(LATER)
FRAME_FIELDS = {"sid": SID, "committed_step": 300, "frames": [INFO]}
HELLO_OK = msgspec.msgpack.decode(msgspec.msgpack.encode(fields(hello_ok())))
SPEC, LIMITS = HELLO_OK["spec"], HELLO_OK["limits"]
CAMERA = SPEC["camera"]
ERROR_FIELDS = {"code": "BUSY", "message": "", "retryable": True}


def framed(one: dict[str, Any] = IMAGES, /, part: bytes = IMAGE_BYTES, **changes: Any):
    return [packed("frames", arrays=[one], **(FRAME_FIELDS | changes)), part]


def shown(**changes: Any) -> list[bytes]:
    return framed(frames=[INFO | changes])


def hello(**changes: Any) -> list[bytes]:
    return [msgspec.msgpack.encode(HELLO_OK | changes)]


def spec(**changes: Any) -> list[bytes]:
    return hello(spec=SPEC | changes)


def taking(kind: str, /, **changes: Any) -> list[bytes]:
    """Of a model whose steps take one field."""
    whole: dict[str, dict[str, Any]] = {
        "number": {"low": 0.0, "high": 1.0},
        "text": {},
        "choice": {"choices": ["one", "other"]},
        "array": {"dtype": "|u1", "shape": [4, 4]},
    }
    one = {"kind": kind, "name": "x"} | whole.get(kind, {}) | changes
    return spec(step_inputs=[{name: v for name, v in one.items() if v is not ...}])


ARRAY = {"kind": "array", "dtype": "|u1", "shape": [4, 4]}
NUMBER = {"kind": "number", "low": 0.0, "high": 1.0}

BAD_SPECS = {
    "a spec that is null": hello(spec=None),
    "frame shape of two numbers": spec(frame_shape=[SIZE, SIZE]),
    "frames of no pixels": spec(frame_shape=[0, SIZE, 3]),
    "frames of four channels": spec(frame_shape=[SIZE, SIZE, 4]),
    "frames beyond any reply": spec(frame_shape=[2**31 - 1, 2**31 - 1, 3]),
    "frames of sizes beyond 31 bits": spec(frame_shape=[2**62, 1, 3]),
    "prompt frames upside down": spec(prompt_frames=[6, 5]),
    "prompt frames as a number": spec(prompt_frames=5),
    "257 prompt frames": spec(prompt_frames=[1, 257]),
    "no frame a step": spec(frames_per_step=0),
    "257 frames a step": spec(frames_per_step=257),
    "0 frames a second": spec(fps_num=0),
    "no lookahead": spec(lookaheads=[]),
    "lookahead 17": spec(lookaheads=[17]),
    "18 lookaheads": spec(lookaheads=[0] * 18),
    "fields as a map": spec(step_inputs={}),
    "15 fields": spec(step_inputs=[NUMBER | {"name": f"x{n}"} for n in range(15)]),
    "a name twice": spec(step_inputs=[NUMBER | {"name": "x"}] * 2),
    "an array as an option": spec(options=[ARRAY | {"name": "x"}]),
    "15 arrays": spec(
        session_inputs=[ARRAY | {"name": f"x{n}"} for n in range(7)],
        step_inputs=[ARRAY | {"name": f"x{n}"} for n in range(8)],
    ),
    "an unknown kind": taking("picture"),
    "no kind": taking("text", kind=...),
    "no name": taking("text", name=...),
    "an empty name": taking("text", name=""),
    "a name of 33 characters": taking("text", name="x" * 33),
    "a name in capitals": taking("text", name="Speed"),
    "a name with a dot": taking("text", name="x.y"),
    "a name that begins with a digit": taking("text", name="1x"),
    "required as a number": taking("text", required=1),
    "doc of 257 characters": taking("text", doc="x" * 257),
    "a number without bounds": taking("number", high=...),
    "a number up to infinity": taking("number", high=INF),
    "a number from NaN": taking("number", low=NAN),
    "a number upside down": taking("number", low=2.0),
    "a unit of 65 characters": taking("number", unit="x" * 65),
    "levels below 0": taking("number", levels=-1),
    "taken at no time": taking("number", taken="start"),
    "a number whose default is a text": taking("number", default="1"),
    "a text of no characters": taking("text", max_chars=0),
    "a text of 4097 characters": taking("text", max_chars=4097),
    "a text whose default is a number": taking("text", default=1.0),
    "a choice of nothing": taking("choice", choices=[]),
    "a choice without choices": taking("choice", choices=...),
    "257 choices": taking("choice", choices=["x"] * 257),
    "a choice of numbers": taking("choice", choices=[1.0]),
    "an array of doubles": taking("array", dtype="<f8"),
    "an array without a shape": taking("array", shape=...),
    "an array of no rank": taking("array", shape=[]),
    "an array of nine dimensions": taking("array", shape=[1] * 9),
    "an array of no elements": taking("array", shape=[4, 0]),
    "an array beyond 2^31 bytes": taking("array", dtype="<f4", shape=[2**15, 2**14]),
    "an array beyond all memory": taking("array", shape=[2**31 - 1] * 8),
    "257 values": taking("array", values=257),
    "camera as a list": spec(camera=[66.0, 1.9, 3.5]),
    "camera without its height": spec(camera={"field_of_view_deg": 66.0, "pitch_down_deg": 3.5}),
    "camera of an infinite height": spec(camera=CAMERA | {"up_m": INF}),
    "camera that sees all around": spec(camera=CAMERA | {"field_of_view_deg": 360.0}),
    "least PSNR as text": spec(prompt_psnr_min_db="25"),
    "least PSNR that is no number": spec(prompt_psnr_min_db=NAN),
    "least PSNR below 0": spec(prompt_psnr_min_db=-1.0),
    "own PSNR beyond 99": spec(prompt_psnr_own_db=100.0),
}

BAD_REPLIES = BROKEN | {
    "truncated": [hello()[0][:-3]],
    "trailing bytes": [hello()[0] + b"\x00"],
    "reply of version 1": hello(v=1),
    "reply of version 3": hello(v=3),
    "a request's type": [packed("step", sid=SID, step=1)],
    "rid as a string": hello(rid="1"),
    "no step in flight": hello(limits=LIMITS | {"max_in_flight": 0}),
    "a lease of 0": hello(lease_ms=0),
    "heartbeats without a pause": hello(heartbeat_ms=0),
    "another protocol chosen": hello(protocol=1),
    "limits as a list": hello(limits=[65_536, 16, 1, 1, 1]),
    "prompt's PSNR without bound": framed(prompt_psnr_db=INF),
    "prompt's PSNR that is no number": framed(prompt_psnr_db=NAN),
    "no frames": [packed("frames", sid=SID, committed_step=300)],
    "frames as a map": framed(frames=INFO),
    "257 frames": framed(frames=[INFO] * 257),
    "a frame without its fields": framed(frames=[{"step": 1}]),
    "a frame that is null": framed(frames=[None]),
    "negative frame id": shown(frame_id=-1),
    "final as a number": shown(final=1),
    "marks as a text": shown(marks="approximated"),
    "17 marks": shown(marks=["x"] * 17),
    "a mark of 65 characters": shown(marks=["x" * 65]),
    "stats as a list": shown(stats=[1.0]),
    "stats of one number": shown(stats={"accepted": 1.0}),
    "stats that are NaN": shown(stats={"accepted": [1.0, NAN]}),
    "17 stats": shown(stats={f"x{n}": [] for n in range(17)}),
    "timings as a list": shown(timings_ns=[1]),
    "opened with a negative seed": [packed("opened", sid=SID, committed_step=0, seed=-1)],
    "an unknown code": [packed("error", **(ERROR_FIELDS | {"code": "TEAPOT"}))],
    "message of 4097 characters": [packed("error", **(ERROR_FIELDS | {"message": "x" * 4097}))],
    "array without its part": framed()[:1],
    "part without its array": [*hello(), b"x"],
    "one array twice": [
        packed("frames", arrays=[IMAGES] * 2, **FRAME_FIELDS),
        IMAGE_BYTES,
        IMAGE_BYTES,
    ],
    "17 parts": [*hello(), *[b""] * 17],
    "float64": framed(IMAGES | {"dtype": "<f8"}),
    "nbytes against the shape": framed(IMAGES | {"nbytes": 1}),
    "a shape beyond all memory": framed(IMAGES | {"shape": [2**31 - 1] * 8, "nbytes": 2**62}),
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
        *hello(arrays=[EMPTY | {"shape": [2**31 - 1] * 3 + [0]}]),
        b"",
    ],
    "a part too short": framed(part=IMAGE_BYTES[:-1]),
}


def replies() -> list[Refused]:
    bad = BAD_REPLIES | {f"hello_ok: {name}": parts for name, parts in BAD_SPECS.items()}
    return [Refused(name=name, parts=parts) for name, parts in bad.items()]
