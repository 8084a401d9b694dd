"""Whose requests are taken at all: the key's standing, its rate, and how many sessions it has.

Asked for everything that comes in, malformed or not. Used by the I/O thread alone.
"""

from __future__ import annotations

import math

from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.server.auth import Guard
from sim_stream.wire.server.jobs import Refusal
from sim_stream.wire.server.rates import REQUESTS_PER_S, RateLimit


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
