"""How long a client waits for one reply: for a server that is silent, and for one that computes.

A client that waits sends heartbeats, and a server says with its ``status`` whether it still has the
request. While it does, time does not run out: a model that is loaded or compiled on its first step
takes its minutes, and the threads that answer heartbeats are others than those that compute. Knows
no sockets; the caller's clock is the monotonic one.
"""

from __future__ import annotations

import logging
import time

from sim_stream.errors import ConnectionLost
from sim_stream.wire.client.handshakes import Handshakes
from sim_stream.wire.client.pending_replies import PendingReplies

log = logging.getLogger(__name__)

# How long a first server may take to appear at an address where nobody listens.
CONNECT_TIMEOUT_S = 2.0
# How long a server may compute on one request.
BUSY_S = 600.0
# Heartbeats are no closer: a wait that is shorter ends on time, whatever the server does.
BEAT_S = 0.5
# When a wait is first told of, and each time it has doubled.
TOLD_AFTER_S = 5.0
COMPUTING = "the server is alive and computing; busy_s is how long a client waits for that"


class Patience:
    """For the reply to one request, from now on. ``timeout_s`` bounds silence, ``busy_s`` all."""

    def __init__(self, mail: PendingReplies, rid: int, timeout_s: float, busy_s: float) -> None:
        self._mail, self._rid = mail, rid
        self._timeout_s = timeout_s
        self._busy_s = max(timeout_s, busy_s)
        self._begin_s = self._beaten_s = time.monotonic()
        self._beat_s = min(mail.heartbeat_s, max(BEAT_S, timeout_s / 2))
        self._told_s = TOLD_AFTER_S

    def left_s(self) -> float:
        """Until it is over; 0 or less: it is."""
        silent_since_s = max(self._begin_s, self._mail.confirmed_s(self._rid))
        over_s = min(silent_since_s + self._timeout_s, self._begin_s + self._busy_s)
        return over_s - time.monotonic()

    def pause_s(self) -> float:
        """How long nothing has to be done but to listen."""
        return max(min(self.left_s(), self._beaten_s + self._beat_s - time.monotonic()), 0.0)

    def beat_is_due(self) -> bool:
        """Whether to ask the server now; says True once an interval."""
        now_s = time.monotonic()
        if now_s - self._beaten_s < self._beat_s:
            return False
        self._beaten_s = now_s
        return True

    def tell(self, endpoint: str) -> None:
        """Whoever looks at the log, or at stderr, sees what there is to wait for."""
        waited_s = time.monotonic() - self._begin_s
        if waited_s >= self._told_s:
            self._told_s *= 2
            why = "it is alive and computing" if self.computing else "it does not answer"
            log.warning("waiting for %s for %.0f s: %s", endpoint, waited_s, why)

    @property
    def computing(self) -> bool:
        """Whether the server was there not long ago, with the request in its hands."""
        return time.monotonic() - self._mail.confirmed_s(self._rid) < 2 * self._beat_s + BEAT_S

    def lost(self, endpoint: str, timeout_s: float, handshakes: Handshakes) -> ConnectionLost:
        """The error of a wait that was too long, with its probable cause."""
        if self.computing:
            return ConnectionLost(endpoint, self._busy_s, hint=COMPUTING)
        return handshakes.lost(endpoint, timeout_s)
