"""What may be sent again and is done once: steps by their number, opens and forks by their key.

A step is accepted when it is the next one. Repeated with the same content it brings the same
reply, out of a bounded cache; with another content it is a conflict. Steps in flight are bounded.

An ``open`` or ``fork`` whose reply was lost is sent again with the same ``idempotency_key``: it
gets the same reply, or joins those who wait for it. A key is remembered for as long as its session
lives, and the last ``ENDED_KEPT`` of those that ended, so that a late repeat opens nothing.

Used by the I/O thread alone, hence without locks.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
import numpy as np

from sim_stream.wire.framing import Arrays, Packet
from sim_stream.wire.messages import ErrorCode, Fork, Message, Open, Step
from sim_stream.wire.server.jobs import Refusal

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


KEY = "idempotency_key"
ENDED_KEPT = 16
# In place of the digest of a content that never came.
WITHDRAWN = b""


@dataclass
class Opening:
    """``reply`` None: under way, or its session has ended."""

    digest: bytes
    sid: str
    waiters: list[Waiter]
    reply: Packet | None = None
    ended: bool = False


@dataclass(frozen=True)
class Key:
    """What an opening goes by. ``text`` is the client's own if it is ``chosen``, else the session's
    id: a client that calls its key as a session is called names no session by that."""

    owner: str
    text: str
    chosen: bool


class Openings:
    """At most one for every session, and a few of the past."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Key, Opening] = OrderedDict()
        self._keys: dict[str, Key] = {}  # of the sessions that live, by sid

    def recall(self, key: str, digest: bytes, waiter: Waiter) -> Packet | bool:
        """The reply; True: under way, the waiter was added; False: never seen. Raises Refusal."""
        opening = self._by_key.get(Key(waiter.user, key, chosen=True)) if key else None
        if opening is None:
            return False
        if opening.digest not in (digest, WITHDRAWN):
            raise Refusal(ErrorCode.STEP_CONFLICT, f"{KEY}: was used before with another content")
        if opening.ended:
            raise Refusal(ErrorCode.NO_SESSION, f"{KEY}: the session that it opened has ended")
        return opening.reply or self.join(opening.sid, waiter)

    def withdraw(self, key: str, user: str) -> str:
        """The session that was or is being opened with that key; "": none, nor will there be."""
        owned = Key(user, key, chosen=True)
        opening = self._by_key.setdefault(owned, Opening(WITHDRAWN, "", [], ended=True))
        if not opening.ended:
            return opening.sid
        self._forget_ended()
        return ""

    def join(self, sid: str, waiter: Waiter) -> bool:
        """Waits for a session that is being made; False: it stands already. Raises Refusal."""
        opening = self._by_key[self._keys[sid]]
        if opening.reply is not None:
            return False
        if len(opening.waiters) >= MAX_WAITERS:
            raise Refusal(ErrorCode.BUSY, f"{opening.sid}: asked for too often while under way")
        opening.waiters.append(waiter)
        return True

    def begin(self, key: str, digest: bytes, sid: str, waiter: Waiter) -> None:
        """Nothing of the key, and nothing of the session, may be under way. A session without a
        key is remembered by its sid."""
        owned = Key(waiter.user, key or sid, chosen=bool(key))
        assert owned not in self._by_key and sid not in self._keys, "would lose who waits for it"
        self._keys[sid] = owned
        self._by_key[owned] = Opening(digest, sid, [waiter])

    def finish(self, sid: str, reply: Packet | None) -> list[Waiter]:
        """Who waits for the session; without a reply it was refused, and may be asked for anew."""
        opening = self._by_key[self._keys[sid]]
        opening.reply = reply
        if reply is None:
            del self._by_key[self._keys.pop(sid)]
        waiters, opening.waiters = opening.waiters, []
        return waiters

    def drop(self, sid: str) -> list[Waiter]:
        """Who waits for a session that will not be, or is over; it may not be known at all."""
        key = self._keys.pop(sid, None)
        opening = None if key is None else self._by_key.pop(key, None)
        return [] if opening is None else opening.waiters

    def end(self, sid: str) -> None:
        """The session is over: its first frame may go."""
        key = self._keys.pop(sid)
        if not key.chosen:  # nobody will ask for it
            del self._by_key[key]
            return
        opening = self._by_key[key]
        opening.reply, opening.ended = None, True
        self._by_key.move_to_end(key)
        self._forget_ended()

    def _forget_ended(self) -> None:
        ended = [key for key, opening in self._by_key.items() if opening.ended]
        for key in ended[:-ENDED_KEPT]:
            del self._by_key[key]


def opening_digest(request: Open | Fork, arrays: Arrays) -> bytes:
    """What makes two openings the same: every field, and the pixels."""
    return content_digest(msgspec.structs.replace(request, rid=0, arrays=[]), arrays)
