"""Random and mutated messages: thousands of them, from a seed, off the committed vectors.

Mutations work on bytes, on the fields inside the header and on the list of parts. Every message
must get exactly one reply, none may reach the engine as a failure.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import msgpack
import zmq

from tests.faults.clients import Bystander
from tests.faults.hostile import MESSAGE_BYTES, REFERENCE, committed, vector_server
from tests.faults.processes import Server, require
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient, frames_spec
from tests.wire.toy import prompt_frames
from tests.wire.vectors.valid import SID, SIZE

MESSAGES = 10_000
IN_FLIGHT = 16
PER_CONNECTION = 500
REPLY_TIMEOUT_MS = 10_000
GROWTH_MIB = 48.0
# A part beyond the server's limit is cut off without a reply; that is another fault's business.
PART_BYTES = MESSAGE_BYTES // 2

BAD_VALUES = (
    *(None, True, False, "", "x" * 65, b"", b"\xff" * 300, [], {}, [[]] * 40, {"": {}}),
    *(0, -1, 1, 2**7, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1.5, 1e308, float("inf"), float("-inf"), float("nan")),
)
SNIPPETS = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xc0")


class Fuzzer:
    """Endless messages; equal seeds give equal ones but for the sessions' ids in them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        # Mostly what a server would take, so that a mutation meets the rules behind the decoder.
        kinds = [*5 * ["requests"], "refused_requests", "replies"]
        self._corpus: list[list[bytes]] = [v["parts"] for kind in kinds for v in committed(kind)]  # type: ignore[misc]
        self.kinds: Counter[str] = Counter()

    def message(self, sid: str) -> list[bytes]:
        """Aimed at that session wherever the vector names one."""
        if self._random.random() < 0.15:
            self.kinds["random"] += 1
            return [self._noise() for _ in range(self._random.choice((1, 1, 1, 2, 3, 18)))]
        parts = [part.replace(SID.encode(), sid.encode()) for part in self._pick()]
        kind, mutate = self._random.choice(
            (("bytes", self._bytes), ("fields", self._fields), ("parts", self._parts))
        )
        self.kinds[kind] += 1
        for _ in range(self._random.choice((1, 1, 1, 3))):
            parts = mutate(parts)
        return [part[:PART_BYTES] for part in parts]

    def _pick(self) -> list[bytes]:
        return self._random.choice(self._corpus)

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 2, 7, 40, 3000)))

    def _bytes(self, parts: list[bytes]) -> list[bytes]:
        """Flips, cuts, repeats and splices, in the header mostly."""
        index = 0 if self._random.random() < 0.9 else self._random.randrange(len(parts))
        part = bytearray(parts[index])
        where = self._random.randrange(len(part) + 1)
        match self._random.randrange(6):
            case 0:
                part[where : where + 1] = self._random.randbytes(1)
            case 1:
                del part[where : where + self._random.randint(1, 9)]
            case 2:
                del part[where:]
            case 3:
                part[where:where] = self._random.choice(SNIPPETS)
            case 4:
                part[where:where] = part[: self._random.randint(1, 40)]
            case 5:
                part[where:] = self._pick()[0][where:]
        return [*parts[:index], bytes(part), *parts[index + 1 :]]

    def _fields(self, parts: list[bytes]) -> list[bytes]:
        """Another value somewhere in the header, or a field more or fewer."""
        try:
            header = msgpack.unpackb(parts[0], strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException):  # what mutations made of it
            return self._bytes(parts)
        if not isinstance(header, dict) or not header:
            return self._bytes(parts)
        self._change(header)
        return [msgpack.packb(header), *parts[1:]]

    def _change(self, node: dict[str, object]) -> None:
        key = self._random.choice([*node])
        inner = node[key]
        if isinstance(inner, list) and inner:
            inner = self._random.choice(inner)
        if isinstance(inner, dict) and inner and self._random.random() < 0.7:
            self._change(inner)
            return
        match self._random.randrange(8):
            case 0:
                del node[key]
            case 1:
                node[f"{key}{key}"] = node[key]
            case _:
                node[key] = self._random.choice(BAD_VALUES)

    def _parts(self, parts: list[bytes]) -> list[bytes]:
        index = self._random.randrange(len(parts))
        match self._random.randrange(5):
            case 0:
                return [*parts, self._noise()]
            case 1:
                return [*parts[:index], *parts[index + 1 :]] or [b""]
            case 2:
                return [*parts[: index + 1], *parts[index:]]
            case 3:
                return [*parts[:index], *self._pick(), *parts[index + 1 :]]
            case _:
                return [parts[0], *[b"x"] * self._random.randrange(1, 40)]


class Attacker:
    """Sends a fuzzer's messages, several in flight, over one connection after another."""

    def __init__(self, stage: Stage, server: Server, fuzzer: Fuzzer) -> None:
        self._server, self._fuzzer = server, fuzzer
        self._raw = RawClient(server.endpoint)
        stage.callback(lambda: self._raw.close())
        self.answers: Counter[str] = Counter()
        self.sid = self._open()

    def attack(self, messages: int) -> None:
        in_flight_steps = 0
        for number in range(1, messages + 1):
            parts = self._fuzzer.message(self.sid)
            self._raw.send(parts[0], *parts[1:])
            in_flight_steps += 1
            if in_flight_steps == IN_FLIGHT:
                self._receive(parts)
                in_flight_steps -= 1
            if number % PER_CONNECTION == 0:
                for _ in range(in_flight_steps):
                    self._receive(parts)
                in_flight_steps = 0
                self._renew()
        for _ in range(in_flight_steps):
            self._receive(parts)

    def _receive(self, latest: list[bytes]) -> None:
        if not self._raw.socket.poll(REPLY_TIMEOUT_MS, zmq.POLLIN):
            self._server.require_alive()
            require(
                False, f"a message was not answered, at most {IN_FLIGHT} before {latest[0][:80]!r}"
            )
        reply = msgpack.unpackb(self._raw.socket.recv_multipart()[0])
        answer = reply["code"] if reply["t"] == "error" else reply["t"]
        require(answer != "ENGINE_FAILED", f"a message reached the engine: {reply}")
        self.answers[answer] += 1

    def _renew(self) -> None:
        """A new connection, and a new session where the last one was closed on the way."""
        require(not self._raw.socket.poll(0), "a message was answered twice")
        self._raw.close()
        self._raw = RawClient(self._server.endpoint)
        if self._raw.ask({"t": "heartbeat", "sid": self.sid})["t"] == "error":
            self.sid = self._open()

    def _open(self) -> str:
        frames = prompt_frames(size=SIZE)
        for _ in range(200):
            fields = {"t": "open", "arrays": [frames_spec(frames)]}
            reply = self._raw.ask(fields, frames.tobytes())
            if reply["t"] == "opened":
                return str(reply["sid"])
            self._raw.socket.poll(50)  # full of sessions that mutated opens made: leases free them
        raise AssertionError(f"no session became free: {reply}")

    def require_unharmed(self) -> None:
        """The session under attack still steps, or was closed by a message that said so."""
        status = self._raw.ask({"t": "heartbeat", "sid": self.sid})
        if status["t"] == "error":
            self.sid, status = self._open(), {"committed_step": 0}
        step = {"t": "step", "sid": self.sid, "step": status["committed_step"] + 1}
        reply = self._raw.ask(step | {"inputs": {"speed_mps": 5.0}})
        require(reply["t"] == "frames", f"the session under attack does not step: {reply}")


def run(stage: Stage, *, messages: int = MESSAGES) -> Figures:
    server = vector_server(stage)
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    fuzzer = Fuzzer(stage.seed)
    attacker = Attacker(stage, server, fuzzer)
    attacker.attack(messages // 10)
    memory = server.memory(bound_mib=GROWTH_MIB)
    attacker.attack(messages - messages // 10)
    attacker.require_unharmed()
    engine_failed = [line for line in server.said if "Traceback" in line]
    require(not engine_failed, f"the server's log has {len(engine_failed)} tracebacks")
    return {
        "seed": str(stage.seed),
        "messages": ", ".join(f"{count} {kind}" for kind, count in fuzzer.kinds.most_common()),
        "answers": ", ".join(f"{code} {n}" for code, n in attacker.answers.most_common()),
        **memory.check(),
        **bystander.check_undisturbed(REFERENCE),
    }


def fault(messages: int) -> Fault:
    return Fault(
        name=f"{messages:,} random and mutated messages",
        holds="each gets exactly one reply; none fails the engine, memory is bounded",
        run=partial(run, messages=messages),
    )


FAULTS = (fault(MESSAGES),)
