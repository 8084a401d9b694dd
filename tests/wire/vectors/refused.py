"""Requests that must be refused, and with which code: broken, hostile, or against the rules.

They are what a new server without sessions answers, one that serves ``spec.SPEC``. Knows no files;
``generate`` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from sim_stream.wire.messages import VERSION, ErrorCode
from tests.wire.vectors.spec import MOST_FRAMES, SIZE
from tests.wire.vectors.valid import LEFT, SID, TOKEN, images

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
    return msgspec.msgpack.encode({"v": VERSION, "rid": 9} | named | plain)


def array(**changes: Any) -> dict[str, Any]:
    whole = {"name": "frames", "dtype": "|u1", "shape": [1, SIZE, SIZE, 3], "nbytes": len(FRAME)}
    return whole | changes


def opening(one: dict[str, Any] | None = None, /, part: bytes = FRAME, **plain: Any):
    return [packed("open", arrays=[one or array()], **plain), part]


def opening_with(name: str, given: np.ndarray, **plain: Any) -> list[bytes]:
    """From a frame and a second array, whatever it is."""
    dtype, shape = given.dtype.str, list(given.shape)
    second = array(name=name, dtype=dtype, shape=shape, nbytes=given.nbytes)
    return [packed("open", arrays=[array(), second], **plain), FRAME, given.tobytes()]


def step(**plain: Any) -> list[bytes]:
    return [packed("step", **({"sid": SID, "step": 1} | plain))]


# Broken for either side; a map that never ends, lengths that no part could hold.
BROKEN = {
    "empty header": [b""],
    "not msgpack": [b"\xc1\xff\x00"],
    "not a map": [msgspec.msgpack.encode([1, 2, 3])],
    "a huge array length": [b"\x82\xa1v\x02\xa1x\xdd\xff\xff\xff\xff"],
    "a huge map length": [b"\xdf\xff\xff\xff\xff\xa1v"],
    "a huge binary length": [b"\x82\xa1v\x02\xa1x\xc6\xff\xff\xff\xff"],
    "nesting without end": [b"\x82\xa1v\x02\xa1x" + b"\x91" * 2_000 + b"\x01"],
    "a key that is no string": [b"\x82\xa1v\x02\x01\x05"],
    "no type": [packed(None)],
    "an unknown type": [packed("teleport")],
    "a type that is no string": [msgspec.msgpack.encode({"v": VERSION, "rid": 9, "t": 7})],
}

# Malformed whatever the model.
MALFORMED = BROKEN | {
    "truncated": [packed("hello")[:-3]],
    "trailing bytes": [packed("hello") + b"\x00"],
    "no version": [msgspec.msgpack.encode({"t": "hello", "rid": 9})],
    "a reply's type": [packed("frames")],
    "bad UTF-8": [b"\x82\xa1v\x02\xa1t\xa1\xff"],
    "negative rid": [packed("hello", rid=-1)],
    "rid as a float": [packed("hello", rid=9.0)],
    "sid of 65 characters": [packed("close", sid="x" * 65)],
    "close without sid": [packed("close")],
    "resume without a token": [packed("resume")],
    "resume_token of 65 characters": [packed("resume", resume_token="x" * 65)],
    "record as a number": opening(record=1),
    "negative step": step(step=-1),
    "step beyond 64 bits signed": step(step=2**63),
    "step as a float": step(step=1.0),
    "step as a boolean": step(step=True),
    "inputs as a list": step(inputs=[1.0, 0.0]),
    "inputs that are null": step(inputs=None),
    "an input that is null": step(inputs={"speed_mps": None}),
    "an input as a boolean": step(inputs={"speed_mps": True}),
    "an input as a list": step(inputs={"speed_mps": [1.0]}),
    "an input under a number": step(inputs={1: 1.0}),
    "an input of 65 characters": step(inputs={"x" * 65: 1.0}),
    "33 inputs": step(inputs={f"x{n}": 1.0 for n in range(33)}),
    "a text of 4097 characters": step(inputs={"text": "x" * 4097}),
    "negative deadline": step(deadline_ms=-1),
    "negative seed": opening(seed=-1),
    "negative seed of a fork": [packed("fork", sid=SID, seed=-1)],
    "lookahead 17": opening(lookahead=17),
    "options as a list": opening(options=["jacobi"]),
    "257 prompt inputs": opening(prompt_inputs=[{}] * 257),
    "a prompt input that is null": opening(prompt_inputs=[None]),
    "idempotency_key of 65 characters": opening(idempotency_key="x" * 65),
    "array without its part": opening()[:1],
    "part without its array": [packed("hello"), b"x"],
    "one array twice": [packed("open", arrays=[array()] * 2), FRAME, FRAME],
    "arrays with a hello": [packed("hello", arrays=[array()]), FRAME],
    "17 parts": [packed("hello"), *[b""] * 17],
    "float64": opening(array(dtype="<f8")),
    "nbytes against the shape": opening(array(nbytes=1)),
    "a shape beyond all memory": opening(array(shape=[2**31 - 1] * 8, nbytes=2**62)),
    "no bytes in three huge sizes": opening(array(shape=[2**31 - 1] * 3 + [0], nbytes=0), part=b""),
    "no bytes, huge sizes last": opening(array(shape=[0] + [2**31 - 1] * 3, nbytes=0), part=b""),
    "no bytes in eight sizes": opening(array(shape=[0] * 4 + [2**31 - 1] * 4, nbytes=0), part=b""),
    "no bytes in two huge sizes": opening(array(shape=[2**31 - 1, 2, 0], nbytes=0), part=b""),
    "no floats in a huge size": opening(array(dtype="<f4", shape=[2**30, 0], nbytes=0), part=b""),
    "a size of 2^31": opening(array(shape=[2**31, 0], nbytes=0), part=b""),
    "a size of 2^64 - 1": opening(array(shape=[2**64 - 1, 0], nbytes=0), part=b""),
    "a product that wraps to the part's bytes": opening(
        array(shape=[2**30, 2**30, 2**4, 1], nbytes=0), part=b""
    ),
    "a hello with no bytes in huge sizes": [
        packed("hello", arrays=[array(shape=[2**31 - 1] * 3 + [0], nbytes=0)]),
        b"",
    ],
    "a part too short": opening(part=FRAME[:-1]),
    "negative shape": opening(array(shape=[-1, -SIZE, SIZE, 3])),
    "nine dimensions": opening(array(shape=[1] * 9, nbytes=1), part=b"x"),
}

# Well-formed, and not what this model takes.
UNFIT = {
    "unknown mode": opening(mode="warp"),
    "another period": opening(dt_us=1),
    "a lookahead that the model has not": opening(lookahead=2),
    "an array that the model has not": opening_with("pixels", images(4)),
    "float frames": opening(array(dtype="<f4", nbytes=4 * len(FRAME)), part=FRAME * 4),
    "three dimensions": opening(array(shape=[SIZE, SIZE, 3])),
    "frames of another size": opening(array(shape=[2, SIZE // 2, SIZE, 3])),
    "a frame too many": opening(
        array(shape=[MOST_FRAMES + 1, SIZE, SIZE, 3], nbytes=(MOST_FRAMES + 1) * len(FRAME)),
        part=FRAME * (MOST_FRAMES + 1),
    ),
    "an input that the model has not": opening(inputs={"wings": 2.0}),
    "an input of a step, with an open": opening(inputs={"speed_mps": 1.0}),
    "a number for a text": opening(inputs={"text": 1.0}),
    "a text too long": opening(inputs={"text": "x" * 41}),
    "a text that is no choice": opening(inputs={"weather": "fog"}),
    "a number for an array": opening(inputs={"heights": 1.0}),
    "an array for a text": opening_with("inputs.text", images(4)),
    "an array of another type": opening_with("inputs.heights", images(2, 3)),
    "an array of another shape": opening_with("inputs.heights", np.zeros((3, 2), "<f4")),
    "an array of no rank": opening_with("inputs.heights", np.zeros((), "<f4")),
    "an array that holds NaN": opening_with("inputs.heights", np.full((2, 3), NAN, "<f4")),
    "an array that holds infinity": opening_with("inputs.heights", np.full((2, 3), INF, "<f4")),
    "an option that the model has not": opening(options={"wings": 2.0}),
    "an option at an open bound": opening(options={"temperature": 0.0}),
    "an option beyond its bounds": opening(options={"temperature": 10.5}),
    "an option that is NaN": opening(options={"temperature": NAN}),
    "an option that is infinite": opening(options={"temperature": INF}),
    "an option that is not whole": opening(options={"top_k": 1.5}),
    "a text for a number": opening(options={"temperature": "0.5"}),
    "a number for a choice": opening(options={"strategy": 0.0}),
    "two prompt inputs for one frame": opening(prompt_inputs=[LEFT, LEFT]),
    "prompt inputs without a frame": [packed("open", prompt_inputs=[LEFT])],
    "a prompt input that lacks the speed": opening(prompt_inputs=[{}]),
    "a prompt input that the model has not": opening(prompt_inputs=[LEFT | {"wings": 2.0}]),
    "a clamped prompt input that is NaN": opening(prompt_inputs=[LEFT | {"speed_mps": NAN}]),
    "a clamped prompt input that is infinite": opening(prompt_inputs=[LEFT | {"speed_mps": -INF}]),
    "a prompt array that is not one per frame": opening_with(
        "prompt.semantic", images(2, 4, 4) % 16, prompt_inputs=[LEFT]
    ),
    "a prompt array of another shape": opening_with(
        "prompt.semantic", images(1, 4, 5) % 16, prompt_inputs=[LEFT]
    ),
    "a prompt array beyond its values": opening_with(
        "prompt.semantic", images(1, 4, 4) + np.uint8(1), prompt_inputs=[LEFT]
    ),
    "a prompt array that the model has not": opening_with(
        "prompt.heights", np.zeros((1, 2, 3), "<f4"), prompt_inputs=[LEFT]
    ),
}

OTHERS = {
    ErrorCode.VERSION: {
        "header of version 1": [packed("hello", v=1)],
        "header of version 3": [packed("hello", v=3)],
        "type from the future": [packed("beam", v=3)],
        "hello that offers 3 to 4": [packed("hello", protocol_min=3, protocol_max=4)],
        "hello that offers 1": [packed("hello", protocol_min=1, protocol_max=1)],
    },
    ErrorCode.NO_SESSION: {
        "step of no session": step(inputs=LEFT),
        "fork of no session": [packed("fork", sid=SID, seed=7)],
        "reset of no session": [packed("reset", sid=SID, arrays=[array()]), FRAME],
        "heartbeat of no session": [packed("heartbeat", sid=SID)],
    },
    ErrorCode.LIMIT: {
        "record on a server that does not": opening(record=True),
        "resume on a server that does not record": [packed("resume", resume_token=TOKEN)],
    },
}


def requests() -> list[Refused]:
    bad = MALFORMED | UNFIT
    assert len(bad) == len(MALFORMED) + len(UNFIT), "each name once"
    return [
        Refused(name=name, parts=parts, code=code.value)
        for code, vectors in ({ErrorCode.BAD_MESSAGE: bad} | OTHERS).items()
        for name, parts in vectors.items()
    ]
