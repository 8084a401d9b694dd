"""How many requests a peer may send: a token bucket for each, and a bounded number of those.

Used by one thread, hence without a lock. Knows no sockets and no keys.
"""

from __future__ import annotations

from collections import OrderedDict

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
