"""One session as the dispatcher sees it: which steps were taken, each exactly once.

A step is accepted when it is the next one. Repeated with the same content it brings the same
reply, out of a bounded cache; with another content it is a conflict. Steps in flight are bounded.

Knows no sockets and no engine. Used by the I/O thread alone, hence without a lock.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sim_stream.wire.framing import Arrays, Packet
from sim_stream.wire.messages import ErrorCode, Message, Step
from sim_stream.wire.server.faults import Refusal

MAX_WAITERS = 4
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True)
class Waiter:
    """Who gets a reply: a connection, the request id to put into it, and whose key asked ("")."""

    route: bytes
    rid: int
    user: str = ""


@dataclass
class InFlight:
    digest: bytes
    waiters: list[Waiter]


@dataclass
class SessionRecord:
    """``control``: an open, reset, fork or close is under way; ``closing``: it is a close.

    ``owner``: the key of the client that opened it, "" where clients have none. ``unwanted``: its
    client did not wait until it stood. ``prompt_psnr_db``, ``seed``: once it stands.
    ``dropped`` counts a realtime session's steps that newer ones superseded, ``newest`` is the last
    that came.
    """

    sid: str
    max_in_flight: int
    last_seen_ns: int
    owner: str = ""
    committed_step: int = -1
    prompt_psnr_db: float | None = None
    seed: int = 0
    control: bool = False
    closing: bool = False
    realtime: bool = False
    unwanted: bool = False
    dropped: int = 0
    newest: int = 0
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    replies: OrderedDict[int, tuple[bytes, Packet]] = field(default_factory=OrderedDict)

    @property
    def next_step(self) -> int:
        return max(self.in_flight, default=self.committed_step) + 1

    @property
    def idle(self) -> bool:
        return not self.control and not self.in_flight

    def recall(self, step: int, digest: bytes, waiter: Waiter) -> Packet | bool:
        """A step's cached reply; True: under way, the waiter was added; False: never seen.

        Raises Refusal: the step was seen with another content, or is neither old nor next.
        """
        if step in self.in_flight:
            entry = self.in_flight[step]
            self._require_equal(step, digest, entry.digest)
            if len(entry.waiters) >= MAX_WAITERS:
                raise Refusal(ErrorCode.BUSY, f"step {step}: asked for too often while under way")
            entry.waiters.append(waiter)
            return True
        if step in self.replies:
            cached_digest, packet = self.replies[step]
            self._require_equal(step, digest, cached_digest)
            return packet
        if self.realtime:
            if step <= self.newest:
                raise Refusal(ErrorCode.DROPPED, f"step {step}: step {self.newest} came before it")
        elif step != self.next_step:
            raise Refusal(ErrorCode.STEP_CONFLICT, f"step: got {step}; next is {self.next_step}")
        return False

    def require_room(self) -> None:
        """Raises Refusal when no further step may be sent to the engine now."""
        self.require_no_control()
        if len(self.in_flight) >= self.max_in_flight and not self.realtime:
            raise Refusal(ErrorCode.BUSY, f"{self.max_in_flight} steps are in flight; wait for one")

    def require_no_control(self) -> None:
        if self.control:
            raise Refusal(ErrorCode.BUSY, "a reset, fork or close of this session is under way")

    def accept(self, step: int, digest: bytes, waiter: Waiter) -> None:
        self.in_flight[step] = InFlight(digest, [waiter])
        self.newest = step

    def drop(self, step: int) -> list[Waiter]:
        """Ends a step that a newer one superseded."""
        self.dropped += 1
        return self.in_flight.pop(step).waiters

    def finish(self, step: int, committed_step: int, packet: Packet | None) -> list[Waiter]:
        """Ends a step in flight; a packet (None: it failed) is kept for repeats."""
        entry = self.in_flight.pop(step)
        self.committed_step = max(self.committed_step, committed_step)
        if packet is not None:
            self.replies[step] = (entry.digest, packet)
            while len(self.replies) > 2 * self.max_in_flight:
                self.replies.popitem(last=False)
        return entry.waiters

    def remember(self, step: int, digest: bytes, packet: Packet) -> None:
        """The reply to a step that was taken before the session was resumed."""
        self.replies[step] = (digest, packet)

    def restart(self, committed_step: int) -> None:
        """The session begins anew: its old steps are another stream's."""
        self.committed_step = self.newest = committed_step
        self.replies.clear()

    def _require_equal(self, step: int, digest: bytes, known: bytes) -> None:
        if digest != known:
            raise Refusal(
                ErrorCode.STEP_CONFLICT, f"step {step} was taken before with another content"
            )


def step_digest(request: Step, arrays: Arrays) -> bytes:
    """What makes two steps the same: all that can change the frames or their labels."""
    same = msgspec.structs.replace(request, rid=0, sid="", deadline_ms=None, arrays=[])
    return content_digest(same, arrays)


def content_digest(message: Message, arrays: Arrays) -> bytes:
    """Of every field, whatever the order of its maps, and every element."""
    content = hashlib.blake2b(_ENCODER.encode(message), digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        content.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        content.update(array.reshape(-1).view(np.uint8).data)
    return content.digest()
