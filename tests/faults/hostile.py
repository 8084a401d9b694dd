"""Messages and bytes made by hand to hurt: the committed refused ones, and what does not fit there.

Every message gets its refusal, or costs its sender the connection; nothing changes the sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import msgpack
import msgspec
import zmq

from sim_stream.wire.framing import HEADER_BYTES
from sim_stream.wire.messages import VERSION
from sim_stream.wire.server.sessions import CLOSED_KEPT
from tests.faults.clients import Bystander, toy_reference
from tests.faults.processes import Server, require, toy_server
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient
from tests.wire.vectors.generate import MSGPACK
from tests.wire.vectors.spec import SIZE, SPEC
from tests.wire.vectors.valid import LIMITS

REFERENCE = partial(toy_reference, spec=SPEC)
MESSAGE_BYTES = LIMITS.message_bytes
# What libzmq and the allocator may keep of the largest message below, and a margin.
GROWTH_MIB = 64.0
CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_MS = 10_000
DESCRIPTORS = 64


def vector_server(stage: Stage, *options: str) -> Server:
    """The server that the committed vectors are meant for, without a limit of the rate."""
    fixed = ("--world=vectors", "--lease-s=2", "--max-sessions=8", "--requests-per-s=1000000")
    return stage.start(toy_server(*fixed, *options))


def committed(kind: str) -> list[dict[str, object]]:
    """The test vectors of that list."""
    vectors: dict[str, list[dict[str, object]]] = msgspec.msgpack.decode(MSGPACK.read_bytes())
    return vectors[kind]


def hello(**fields: object) -> bytes:
    packed: bytes = msgpack.packb({"v": VERSION, "rid": 9, "t": "hello"} | fields)
    return packed


def by_hand() -> Iterator[tuple[str, list[bytes]]]:
    """What the committed vectors leave out, mostly for its size."""
    yield "nested 60,000 deep", [b"\x82\xa1v\x01\xa1x" + b"\x91" * 60_000 + b"\x01"]
    yield "nested maps", [b"\x82\xa1v\x01\xa1x" + b"\x81\xa1k" * 20_000 + b"\x01"]
    yield "header too long", [hello(pad=b"x" * (HEADER_BYTES + 1000))]
    yield "10,000 arrays announced", [hello(arrays=[{}] * 10_000)]
    yield "1,000 parts", [hello(), *[b""] * 1000]
    yield "100,000 parts of a byte", [hello(), *[b"x"] * 100_000]
    yield "3 parts as large as allowed", [hello(), *[bytes(MESSAGE_BYTES)] * 3]
    for size in (2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63)):
        array = {"name": "frames", "dtype": "|u1", "shape": [1, SIZE, SIZE, 3], "nbytes": size}
        yield f"nbytes {size}", [hello(t="open", arrays=[array]), b"x"]
        yield f"shape {size}", [hello(t="open", arrays=[array | {"shape": [size]}]), b"x"]
        yield f"step {size}", [hello(t="step", sid="x", step=size)]
    for length in (1, 3, 10):
        yield f"{length} bytes of a header", [hello()[:length]]
        yield f"{length} parts of a byte", [b"\x81"] * length


def run_messages(stage: Stage) -> Figures:
    server = vector_server(stage)
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    memory = server.memory(bound_mib=GROWTH_MIB)
    codes: Counter[str] = Counter()
    cases = [(v["name"], v["parts"], v["code"]) for v in committed("refused_requests")]
    cases += [(name, parts, None) for name, parts in by_hand()]
    for name, parts, code in cases:
        raw.send(parts[0], *parts[1:])  # type: ignore[index]
        require(bool(raw.socket.poll(REPLY_TIMEOUT_MS)), f"{name}: not answered")
        reply = raw.receive()
        require(reply["t"] == "error", f"{name}: answered with {reply['t']}")
        require(code in (None, reply["code"]), f"{name}: got {reply['code']}, not {code}")
        require(reply["code"] != "ENGINE_FAILED", f"{name}: reached the engine")
        codes[reply["code"]] += 1
    cut_off(raw)
    sessions = raw.ask({"t": "heartbeat"})["sessions"]
    require(sessions == 1, f"{sessions} sessions are open, not the bystander's alone")
    return {
        "messages": str(len(cases)),
        "refused": ", ".join(f"{code} {count}" for code, count in codes.most_common()),
        "connections cut": "1 of 1 for a part beyond the limit",
        **memory.check(),
        **bystander.check_undisturbed(REFERENCE),
    }


def cut_off(raw: RawClient) -> None:
    """One part beyond the limit costs the connection; a new one is served."""
    raw.send(hello(), bytes(MESSAGE_BYTES + 1))
    require(not raw.socket.poll(300, zmq.POLLIN), "a part beyond the limit was answered")
    require(raw.ask({"t": "hello"})["t"] == "hello_ok", "the connection did not come back")


def run_names(stage: Stage) -> Figures:
    """39 ordinary requests: a key called as a session that has ended, then that one's resume."""
    server = vector_server(stage, "--record", str(stage.folder / "recordings"))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    pixels = bytes(SIZE * SIZE * 3)
    frames = {"name": "frames", "dtype": "|u1", "shape": [1, SIZE, SIZE, 3], "nbytes": len(pixels)}

    def opened(**fields: object) -> dict[str, object]:
        reply = raw.ask({"t": "open", "arrays": [frames]} | fields, pixels)
        require(reply["t"] == "opened", f"an open was answered with {reply}")
        return reply

    first = opened()
    raw.ask({"t": "close", "sid": first["sid"]})
    for _ in range(CLOSED_KEPT + 1):
        raw.ask({"t": "close", "sid": opened()["sid"]})
    second = opened(idempotency_key=first["sid"])
    resumed = raw.ask({"t": "resume", "resume_token": first["resume_token"]})
    require(resumed.get("code") == "NO_SESSION", f"a closed session came back: {resumed}")
    inputs = {"speed_mps": 5.0}
    stepped = raw.ask({"t": "step", "sid": second["sid"], "step": 1, "inputs": inputs})
    require(stepped["t"] == "frames", f"the second session does not step: {stepped}")
    raw.ask({"t": "close", "sid": second["sid"]})
    server.require_alive()
    sessions = raw.ask({"t": "heartbeat"})["sessions"]
    require(sessions == 1, f"{sessions} sessions are open, not the bystander's alone")
    return {"requests": str(raw.rid), **bystander.check_undisturbed(REFERENCE)}


FAULTS = (
    Fault(
        name="hostile messages",
        holds="each gets its refusal; nothing changes, memory is bounded",
        run=run_messages,
    ),
    Fault(
        name="a key called as a session",
        holds="what a client chooses and what the server issues are never mistaken",
        run=run_names,
    ),
)
