"""Sessions by the key that their client opened them with, so that each is made exactly once.

An ``open`` or ``fork`` whose reply was lost is sent again with the same ``idempotency_key``: it
gets the same reply, or joins those who wait for it. A key is remembered for as long as its session
lives, and the last ``ENDED_KEPT`` of those that ended, so that a late repeat opens nothing.

Knows no sockets and no engine. Used by the I/O thread alone, hence without a lock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from sim_stream.wire.framing import Arrays, Packet
from sim_stream.wire.messages import ErrorCode, Fork, Open
from sim_stream.wire.server.faults import Refusal
from sim_stream.wire.server.ledger import MAX_WAITERS, Waiter, content_digest

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
