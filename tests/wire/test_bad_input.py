"""Whatever a client sends, it gets a clear error with a code, and the server lives on."""

from __future__ import annotations

import random
import socket

import msgpack
import numpy as np
import pytest

from tests.wire.conftest import TIMEOUT_S, frames_spec
from tests.wire.toy import prompt_frames

FRAMES = prompt_frames()
PIXELS = FRAMES.tobytes()
NAN, INF = float("nan"), float("inf")


def packed(**fields):
    return msgpack.packb({"v": 2, "rid": 9} | fields)


def open_message(*, spec=None, pixels=PIXELS, **fields):
    return [packed(t="open", arrays=[frames_spec(FRAMES, **(spec or {}))], **fields), pixels]


def action(**fields):
    return {"speed_mps": 1.0, "yaw_rate_radps": 0.0} | fields


HEADERS = {
    "empty": ([b""], "truncated"),
    "random bytes": ([b"\xc1\xff\x00"], "malformed"),
    "truncated": ([packed(t="hello")[:-3]], "truncated"),
    "no map": ([msgpack.packb([1, 2, 3])], "Expected `object`"),
    "trailing bytes": ([packed(t="hello") + b"\x00"], "trailing"),
    "huge array length": ([b"\x82\xa1v\x01\xa1x\xdd\xff\xff\xff\xff"], "truncated"),
    "huge map length": ([b"\xdf\xff\xff\xff\xff\xa1v"], "truncated"),
    "huge bytes length": ([b"\x82\xa1v\x01\xa1x\xc6\xff\xff\xff\xff"], "truncated"),
    "deep nesting": ([b"\x82\xa1v\x01\xa1x" + b"\x91" * 60_000 + b"\x01"], "recursion"),
    "bad utf-8": ([b"\x82\xa1v\x01\xa1t\xa1\xff"], "utf-8"),
    "oversize header": ([packed(t="hello", pad=b"x" * 70_000)], "65536 bytes"),
    "no type": ([packed()], "missing required field `t`"),
    "unknown type": ([packed(t="teleport")], "'teleport'"),
    "a reply's type": ([packed(t="frames")], "'frames'"),
    "type of wrong type": ([packed(t=7)], "Expected `str`"),
    "negative rid": ([packed(t="hello", rid=-1)], ">= 0"),
    "long sid": ([packed(t="close", sid="x" * 65)], "length <= 64"),
    "step beyond 64 bits signed": ([packed(t="step", sid="SID", step=2**63)], "step"),
    "negative step": ([packed(t="step", sid="SID", step=-1)], "step"),
    "fractional step": ([packed(t="step", sid="SID", step=1.5)], "step"),
    "step without number": ([packed(t="step", sid="SID")], "`step`"),
    "NaN speed": ([packed(t="step", sid="SID", step=1, inputs=action(speed_mps=NAN))], "finite"),
    "infinite yaw": (
        [packed(t="step", sid="SID", step=1, inputs=action(yaw_rate_radps=-INF))],
        "finite",
    ),
    "an unknown input": (
        [packed(t="step", sid="SID", step=1, inputs={"sped_mps": 1})],
        "inputs.sped_mps: got 1.0 (float); allowed: speed_mps, yaw_rate_radps",
    ),
    "a number as text": (
        [packed(t="step", sid="SID", step=1, inputs={"speed_mps": "1"})],
        "inputs.speed_mps",
    ),
    "inputs as text": ([packed(t="step", sid="SID", step=1, inputs="left")], "inputs"),
    "an array that no step takes": (
        [packed(t="step", sid="SID", step=1, arrays=[frames_spec(FRAMES)]), PIXELS],
        "arrays: got frames",
    ),
    "negative seed": (open_message(seed=-1), "seed"),
    "lookahead 2": (open_message(lookahead=2), "lookahead: got 2; allowed: 0 or 1"),
    "temperature 0": (open_message(options={"temperature": 0.0}), "options.temperature"),
    "unknown strategy": (open_message(options={"strategy": "greedy"}), "options.strategy"),
    "window 0": (open_message(options={"strategy": "jacobi", "window": 0}), "options.window"),
    "k as text": (open_message(options={"strategy": "diagonal", "k": "2"}), "options.k"),
    "NaN temperature": (open_message(options={"temperature": NAN}), "options.temperature"),
    "top_k 0": (open_message(options={"top_k": 0}), "options.top_k"),
    "unknown mode": (open_message(mode="warp"), "mode: got warp"),
    "another period": (open_message(dt_us=1), "250000"),
    "a half top_k": (open_message(options={"top_k": 1.5}), "options.top_k"),
    "another text": (open_message(inputs={"text": "fly"}), "inputs.text"),
    "too long a text": (open_message(inputs={"text": "x" * 5000}), "length <= 4096"),
    "inputs for other frames": (open_message(prompt_inputs=[{}]), "2, one per frame"),
    "NaN before the prompt": (
        open_message(prompt_inputs=[{}, action(speed_mps=NAN)]),
        "prompt_inputs[1].speed_mps",
    ),
    "no frames": ([packed(t="open")], "frames: got uint8 [0, 32, 32, 3]; allowed: uint8 [1..5,"),
    "another array": (open_message(spec={"name": "pixels"}), "arrays: got pixels; allowed: frames"),
    "spec without part": ([open_message()[0]], "1 arrays, 0 parts"),
    "part without spec": ([packed(t="hello"), b"x"], "0 arrays, 1 parts"),
    "array twice": (
        [packed(t="open", arrays=[frames_spec(FRAMES)] * 2), PIXELS, PIXELS],
        "frames twice",
    ),
    "17 parts": ([packed(t="hello"), *[b""] * 17], "16 parts"),
    "many parts": ([packed(t="hello"), *[b""] * 1000], "16 parts"),
    "array with hello": (
        [packed(t="hello", arrays=[frames_spec(FRAMES)]), PIXELS],
        "no arrays with this message",
    ),
    "float64": (open_message(spec={"dtype": "<f8"}), "dtype"),
    "object dtype": (open_message(spec={"dtype": "|O"}), "dtype"),
    "nbytes against shape": (open_message(spec={"nbytes": 1}), "nbytes"),
    "nbytes beyond the part": (
        open_message(spec={"shape": [2**31 - 1] * 8, "nbytes": 2**62}),
        "nbytes",
    ),
    "no bytes in huge sizes": (
        open_message(spec={"shape": [2**31 - 1] * 3 + [0], "nbytes": 0}, pixels=b""),
        "arrays.frames.shape",
    ),
    "no bytes, huge sizes last": (
        open_message(spec={"shape": [0] + [2**31 - 1] * 3, "nbytes": 0}, pixels=b""),
        "arrays.frames.shape",
    ),
    "part too short": (open_message(pixels=PIXELS[:-1]), "bytes"),
    "negative shape": (open_message(spec={"shape": [-2, -32, 32, 3]}), "shape"),
    "nine dimensions": (open_message(spec={"shape": [1] * 9, "nbytes": 1}, pixels=b"x"), "shape"),
    "three dimensions": (open_message(spec={"shape": [64, 32, 3]}), "[1..5, 32, 32, 3]"),
    "another size": (open_message(spec={"shape": [1, 64, 32, 3]}), "[1..5, 32, 32, 3]"),
    "no frame at all": (
        open_message(spec={"shape": [0, 32, 32, 3], "nbytes": 0}, pixels=b""),
        "[1..5, 32, 32, 3]",
    ),
    "too many frames": (
        open_message(spec={"shape": [6, 32, 32, 3], "nbytes": 3 * len(PIXELS)}, pixels=PIXELS * 3),
        "[1..5, 32, 32, 3]",
    ),
    "float frames": (
        open_message(spec={"dtype": "<f4", "nbytes": 4 * len(PIXELS)}, pixels=PIXELS * 4),
        "frames: got float32 [2, 32, 32, 3]",
    ),
}


@pytest.mark.parametrize(("parts", "says"), HEADERS.values(), ids=HEADERS.keys())
def test_malformed_message_is_refused(raw, parts, says):
    sid = raw.open()
    header = parts[0].replace(b"\xa3SID", msgpack.packb(sid))
    reply = raw.ask(header, *parts[1:])
    assert (reply["t"], reply["code"]) == ("error", "BAD_MESSAGE")
    assert says in reply["message"] and reply["retryable"] is False
    # The session is as it was, and so is the server.
    step = raw.ask({"t": "step", "sid": sid, "step": 1})
    assert (step["t"], step["committed_step"]) == ("frames", 1)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"t": "hello", "v": 1}, "VERSION"),
        ({"t": "from the future", "v": 3}, "VERSION"),
        ({"t": "hello", "protocol_min": 3, "protocol_max": 4}, "VERSION"),
        ({"t": "step", "sid": "unknown", "step": 1}, "NO_SESSION"),
        ({"t": "fork", "sid": "unknown"}, "NO_SESSION"),
        ({"t": "heartbeat", "sid": "unknown"}, "NO_SESSION"),
    ],
)
def test_refusal_has_its_code_and_the_request_id(raw, fields, code):
    rid = raw.send(fields)
    reply = raw.receive()
    assert (reply["code"], reply["rid"], reply["committed_step"]) == (code, rid, -1)


def test_unknown_session_cannot_be_reset(raw):
    reply = raw.ask({"t": "reset", "sid": "x", "arrays": [frames_spec(FRAMES)]}, PIXELS)
    assert reply["code"] == "NO_SESSION" and "'x'" in reply["message"]


def test_refusal_bears_the_committed_step(raw):
    sid = raw.open()
    raw.ask({"t": "step", "sid": sid, "step": 1})
    reply = raw.ask({"t": "step", "sid": sid, "step": 2, "inputs": "left"})
    assert (reply["code"], reply["committed_step"], reply["sid"]) == ("BAD_MESSAGE", 1, sid)


def test_unknown_fields_are_ignored(raw):
    assert raw.ask({"t": "hello", "wings": {"left": [1, 2]}})["t"] == "hello_ok"
    assert raw.open(record=False)


def test_oversize_message_costs_its_sender_the_connection_only(server, client, raw):
    size = client.info.limits.message_bytes
    assert raw.ask({"t": "hello"}, b"x" * size)["message"].startswith("message: got")
    raw.send({"t": "hello"}, b"x" * (size + 1))
    assert client.status().sessions == 0
    assert raw.ask({"t": "hello"})["t"] == "hello_ok"  # reconnected


def test_peer_that_speaks_no_zeromq_is_ignored(server, client):
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert client.status().sessions == 0


def mutate(rng: random.Random, parts: list[bytes]) -> list[bytes]:
    """Flips, cuts and repeats: in the header mostly, sometimes in the parts."""
    header = bytearray(parts[0])
    for _ in range(rng.randint(1, 6)):
        where = rng.randrange(len(header) + 1)
        match rng.randrange(4):
            case 0:
                header[where : where + 1] = bytes([rng.randrange(256)])
            case 1:
                del header[where : where + rng.randint(1, 8)]
            case 2:
                header[where:where] = rng.choice([b"\xdd\xff\xff\xff\xff", b"\xc0", b"\x91" * 9])
            case 3:
                header[where:where] = header[: rng.randint(1, 8)]
    rest = parts[1:] if rng.random() < 0.8 else parts[1:] * rng.randrange(3)
    return [bytes(header), *rest]


def test_every_mutated_message_gets_one_reply(raw):
    rng = random.Random(20240)
    sid = raw.open()
    refused = 0
    for step in range(1, 401):
        valid = rng.choice(
            [
                [packed(t="hello")],
                open_message(seed=3, prompt_inputs=[{}, action()]),
                [packed(t="step", sid=sid, step=step, inputs=action(), sim_time_us=5)],
                [packed(t="heartbeat", sid=sid)],
            ]
        )
        reply = raw.ask(*mutate(rng, valid))
        refused += reply["t"] == "error"
        if reply["t"] == "opened":
            raw.ask({"t": "close", "sid": reply["sid"]})
        assert reply.get("code") != "ENGINE_FAILED", reply
    assert refused > 200
    committed_step = raw.ask({"t": "heartbeat", "sid": sid})["committed_step"]
    reply = raw.ask({"t": "step", "sid": sid, "step": committed_step + 1})
    assert reply["t"] == "frames" and np.frombuffer(reply["parts"][0], np.uint8).size == 32 * 32 * 3
