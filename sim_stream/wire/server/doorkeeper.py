"""Who comes in, and under which routing id: libzmq's questions about new connections answered.

libzmq asks before a connection counts (ZAP, RFC 27). The answer may name the peer's identity, and
libzmq takes that for its routing id. So every connection gets a random one of the server's: nobody
chooses an id, and libzmq never makes one up. That matters because it ends the process
(``socket_base.cpp``: ``Assertion failed: ok``) when the one that it makes up is taken, and those
count up from a start that is always the same unless somebody seeds C's ``rand``.

Knows no keys but by ``admits``, and no messages.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq
from zmq.utils import z85

from sim_stream.errors import Unavailable
from sim_stream.last_resort import InternalErrors, LastResort

log = logging.getLogger(__name__)

Context = zmq.Context[zmq.Socket[bytes]]

ZAP_ADDRESS, STOP_ADDRESS = "inproc://zeromq.zap.01", "inproc://sim-stream-door"
ZAP_DOMAIN = "sim-stream"
VERSION = b"1.0"
# An answer waits so long: what a peer says of itself by then is overruled by it. libzmq's own peers
# say it at once, with the handshake that made libzmq ask.
HOLD_S = 0.02
POLL_MS = 1000
ID_BYTES = 16
OK, LATER, REFUSED = b"200", b"300", b"400"


class Doorkeeper:
    """Answers in a thread of its own. ``admits``: whether a client's public key (Z85) may come in;
    None: whoever comes without keys may. One a context; before a socket of it is bound."""

    def __init__(
        self,
        context: Context,
        admits: Callable[[str], bool] | None,
        errors: InternalErrors | None = None,
    ) -> None:
        self._admits = admits
        self._mechanism = b"NULL" if admits is None else b"CURVE"
        self._resort = LastResort("door", errors or InternalErrors())
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        try:
            self._socket.bind(ZAP_ADDRESS)
        except zmq.ZMQError as error:
            self._socket.close()
            raise Unavailable(f"the context has a doorkeeper already: {error.strerror}") from error
        self._bell, self._ringer = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._bell.bind(STOP_ADDRESS)
        self._ringer.connect(STOP_ADDRESS)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._stopped = threading.Event()
        self._held: deque[tuple[float, list[bytes]]] = deque()
        self._thread = threading.Thread(target=self._answer, name="sim-stream-door", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent; before the context ends. From then on nobody gets in."""
        if self._socket.closed:
            return
        self._stopped.set()
        self._ringer.send(b"")
        if self._thread.is_alive():
            self._thread.join()
        for socket in (self._socket, self._bell, self._ringer):
            socket.close(linger=0)

    def _answer(self) -> None:
        while not self._stopped.is_set():
            try:
                self._round()
            except zmq.ContextTerminated:
                return
            except Exception as error:
                self._resort.caught(error, "the door's round")
                self._stopped.wait(self._resort.pause_s())
            else:
                self._resort.well()

    def _round(self) -> None:
        if self._socket in dict(self._poller.poll(self._patience_ms())):
            asked = self._socket.recv_multipart()
            self._held.append((time.monotonic() + HOLD_S, self._reply(asked)))
        while self._held and self._held[0][0] <= time.monotonic():
            self._socket.send_multipart(self._held.popleft()[1])

    def _patience_ms(self) -> int:
        if not self._held:
            return POLL_MS
        return max(0, round((self._held[0][0] - time.monotonic()) * 1e3))

    def _reply(self, asked: Sequence[bytes]) -> list[bytes]:
        """To route, "", version, request id, domain, address, identity, mechanism, credentials."""
        route, empty, _, request_id, domain, _, _, mechanism, *credentials = asked
        user, status, text = b"", REFUSED, b"not allowed"
        try:
            if domain == ZAP_DOMAIN.encode() and mechanism == self._mechanism:
                user = self._user(credentials)
                status, text = OK, b"OK"
        except PermissionError:
            pass
        except Exception as error:
            # Neither let in nor told that it never will be: it comes again.
            self._resort.caught(error, "a peer's key")
            status, text = LATER, b"try again"
        identity = _property(b"Identity", b"\x01" + secrets.token_bytes(ID_BYTES - 1))
        return [route, empty, VERSION, request_id, status, text, user, identity]

    def _user(self, credentials: Sequence[bytes]) -> bytes:
        """What libzmq notes as the sender of each message. Raises PermissionError."""
        if self._admits is None:
            return b""
        key = z85.encode(credentials[0]).decode("ascii")
        if not self._admits(key):
            raise PermissionError(key)
        return key.encode()


def guard_door(socket: zmq.Socket[bytes]) -> None:
    """Before the socket is bound: libzmq asks about its connections; unanswered nobody gets in."""
    socket.zap_domain = ZAP_DOMAIN.encode()
    # Without this libzmq lets everybody in whenever nobody answers its questions.
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)


def seed_routing_ids() -> None:
    """Lets libzmq's own ids start anywhere: before the socket is made that they are for.

    They are drawn from C's ``rand``, which libzmq does not seed. No connection should get one; a
    peer with a handshake of its own making, which says who it is after the answer, still may.
    """
    if os.name == "posix":
        ctypes.CDLL(None).srand(ctypes.c_uint(secrets.randbits(32)))


def _property(name: bytes, value: bytes) -> bytes:
    """ZMTP's metadata: name and value, each with its length."""
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
