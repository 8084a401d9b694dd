"""Whose requests are taken at all: the key's standing, its rate, and how many sessions it has.

Asked for everything that comes in, malformed or not. Rates are token buckets, of a bounded number
of peers. Used by the I/O thread alone, hence without locks.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.server.auth import Guard
from sim_stream.wire.server.jobs import Refusal

# At 4 frames a second a session needs four; this many are 500 sessions over one connection.
REQUESTS_PER_S = 2000.0
# Who was silent for longer than this many others starts with a full bucket again.
PEERS_KEPT = 1024


class RateLimit:
    """``per_s`` requests a second and peer, and as many as fit ``burst_s`` seconds at once."""

    def __init__(self, per_s: float, *, burst_s: float = 2.0, peers_kept: int = PEERS_KEPT) -> None:
        self.per_s = per_s
        self._burst = max(per_s * burst_s, 1.0)
        self._peers_kept = peers_kept
        self._buckets: OrderedDict[bytes, tuple[float, int]] = OrderedDict()  # tokens, when

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, peer: bytes, now_ns: int) -> float:
        """0 and the request is counted; or how long until this peer may send another one."""
        tokens, then_ns = self._buckets.get(peer, (self._burst, now_ns))
        tokens = min(tokens + (now_ns - then_ns) * 1e-9 * self.per_s, self._burst)
        taken = tokens >= 1.0
        self._buckets[peer] = (tokens - 1.0 if taken else tokens, now_ns)
        self._buckets.move_to_end(peer)
        if len(self._buckets) > self._peers_kept:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1.0 - tokens) / self.per_s


class Admission:
    """Without a guard everybody is the same user, "", and rates are counted by connection.

    ``throttled``: requests that came too soon.
    """

    def __init__(
        self,
        guard: Guard | None = None,
        max_sessions_per_key: int | None = None,
        requests_per_s: float = REQUESTS_PER_S,
    ) -> None:
        if max_sessions_per_key is not None and max_sessions_per_key < 1:
            raise InvalidInput("max_sessions_per_key", max_sessions_per_key, "1 or more, or None")
        if max_sessions_per_key is not None and guard is None:
            raise InvalidInput("max_sessions_per_key", max_sessions_per_key, "None without keys")
        if not 1 <= requests_per_s < math.inf:
            raise InvalidInput("requests_per_s", requests_per_s, "1 or more")
        self._guard = guard
        self._max_sessions_per_key = max_sessions_per_key
        self._rate = RateLimit(requests_per_s)
        self.throttled = 0

    def refusal(self, route: bytes, user: str, now_ns: int) -> Refusal | None:
        """Counts a request; why it is not taken: UNAUTHENTICATED or BUSY."""
        wait_s = self._rate.wait_s(user.encode() or route, now_ns)
        if wait_s:
            self.throttled += 1
            return Refusal(
                ErrorCode.BUSY,
                f"requests: more than {self._rate.per_s:g} a second; wait {wait_s * 1e3:.0f} ms",
            )
        if self._guard is not None and not self._guard.still_allows(user):
            return Refusal(
                ErrorCode.UNAUTHENTICATED,
                f"key: got {user or 'none'}; it is not allowed (any more)",
            )
        return None

    def admit_session(self, sessions: int) -> None:
        """For a key that has so many sessions, one more. Raises Refusal: LIMIT."""
        limit = self._max_sessions_per_key
        if limit is not None and sessions >= limit:
            raise Refusal(
                ErrorCode.LIMIT, f"{limit} sessions are open with this key; close one first"
            )
