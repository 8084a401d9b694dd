"""A server's guard: encryption and authentication by CURVE on its sockets.

It lets those in whose public key its allow-list holds; ZeroMQ encrypts, and proves that
a client has the secret key to its public one. What an allowed client may then do is the
dispatcher's business. Knows no messages.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import zmq

from sim_stream.errors import InvalidInput
from sim_stream.last_resort import InternalErrors
from sim_stream.wire.keys import KeyPair, read_pair, require_curve
from sim_stream.wire.server.allow_list import AllowList
from sim_stream.wire.server.doorkeeper import Doorkeeper, guard_door
from sim_stream.wire.server.rates import RateLimit

log = logging.getLogger(__name__)

# A peer that has not proved who it is by then is cut off; libzmq's own patience is 30 s.
HANDSHAKE_MS = 10_000
REFUSALS_LOGGED_PER_S = 1.0


class Guard:
    """A server's key and its allow-list, and, while it is started, who may connect."""

    def __init__(self, pair: KeyPair, allow_list: AllowList) -> None:
        self._pair = pair
        self._allow_list = allow_list
        self._door: Doorkeeper | None = None
        self._logged = RateLimit(REFUSALS_LOGGED_PER_S)

    @classmethod
    def load(cls, key: Path | None, allow: Path | None) -> Guard | None:
        """From a secret key file and an allow-list; None without both. Raises InvalidInput."""
        if key is None and allow is None:
            return None
        if key is None:
            raise InvalidInput("key", "none", "the server's secret key file, beside an allow-list")
        if allow is None:
            raise InvalidInput("allow", "none", "a folder or file of clients' public keys")
        require_curve()
        return cls(read_pair("key", key), AllowList(allow))

    @property
    def allowed(self) -> int:
        """How many keys are on the list."""
        return len(self._allow_list)

    def start(
        self, context: zmq.Context[zmq.Socket[bytes]], errors: InternalErrors | None = None
    ) -> None:
        """Before a socket of that context is bound. Raises InvalidInput while it is started."""
        if self._door is not None:
            raise InvalidInput(
                "guard", "one that guards a server", "one of its own for each server"
            )
        self._door = Doorkeeper(context, self.admits, errors)
        self._door.start()

    def stop(self) -> None:
        """Idempotent; before the context ends. Nobody gets in any more."""
        if self._door is not None:
            self._door.stop()
            self._door = None

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket is bound."""
        socket.curve_server = True
        socket.curve_secretkey = self._pair.secret.encode()
        socket.curve_publickey = self._pair.public.encode()
        guard_door(socket)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def admits(self, key: str) -> bool:
        """Whether a new connection with that key is let in."""
        allowed = self._allow_list.holds(key, at_once=True)
        if not allowed and not self._logged.wait_s(b"", time.monotonic_ns()):
            log.warning("refused a client with key %s: not in %s", key, self._allow_list.path)
        return allowed

    def still_allows(self, user: str) -> bool:
        """Whether that key is on the list, of which it may have been taken since it connected."""
        return self._allow_list.holds(user)


def user_of(frame: zmq.Frame) -> str:
    """The public key (Z85) that the sender of a frame proved to have; "" for none."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:  # libzmq's way to say that there is no such property
        return ""
