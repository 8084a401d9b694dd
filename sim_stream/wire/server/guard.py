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
from zmq.auth.thread import ThreadAuthenticator

from sim_stream.errors import InvalidInput
from sim_stream.wire.keys import KeyPair, read_pair, require_curve
from sim_stream.wire.server.allow_list import AllowList
from sim_stream.wire.server.rates import RateLimit

log = logging.getLogger(__name__)

# pyzmq's callback for '*' does not cover a socket with a domain, so both have this one.
ZAP_DOMAIN = "sim-stream"
# A peer that has not proved who it is by then is cut off; libzmq's own patience is 30 s.
HANDSHAKE_MS = 10_000
REFUSALS_LOGGED_PER_S = 1.0


class Guard:
    """A server's key and its allow-list, and, while it is started, who may connect."""

    def __init__(self, pair: KeyPair, allow_list: AllowList) -> None:
        self._pair = pair
        self._allow_list = allow_list
        self._authenticator: ThreadAuthenticator | None = None
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

    def start(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Before a socket of that context is bound. Raises InvalidInput while it is started."""
        if self._authenticator is not None:
            raise InvalidInput(
                "guard", "one that guards a server", "one of its own for each server"
            )
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.configure_curve_callback(ZAP_DOMAIN, self)
        self._authenticator.start()

    def stop(self) -> None:
        """Idempotent; before the context ends."""
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket is bound."""
        socket.curve_server = True
        socket.curve_secretkey = self._pair.secret.encode()
        socket.curve_publickey = self._pair.public.encode()
        socket.zap_domain = ZAP_DOMAIN.encode()
        # Without this libzmq lets everybody in whenever nobody answers its questions, that is, if
        # the authenticator's thread should have ended.
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a new connection with that key is let in; pyzmq calls it by this name."""
        allowed = self._allow_list.holds(key.decode("ascii"), at_once=True)
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
