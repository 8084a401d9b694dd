"""Why a client does not get through to its server: what the socket's handshakes say.

ZeroMQ tries again in the background and tells nobody why it fails; its monitor does. Some failures
end all attempts, others may pass. Shared by the blocking and the asyncio connection.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from sim_stream.errors import ConnectionLost, NobodyListens, RemoteError
from sim_stream.wire.messages import ErrorCode

EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)

# libzmq connects again after 200 ms at most: who listens and breaks off was reached not longer ago.
LATELY_S = 0.5

NOT_LISTED = "the server does not know this client's key; put its .pub file on the server's --allow"
KEYS_WANTED = "the server asks for keys and this client has none; give key and server_key"
NO_KEYS_WANTED = "this client has keys and the server none; leave out key and server_key"
NO_SERVER = "what answers there breaks ZeroMQ's protocol; it is no sim-stream server"
BROKEN_OFF = "the server breaks off the handshake; "
WRONG_SERVER_KEY = BROKEN_OFF + "probably server_key is not its public key"
OTHER_PEER = BROKEN_OFF + "it asks for keys, or is no sim-stream server"


class Handshakes:
    """``refusal``: why it is over; ``hint``: why the last attempt failed. "" for neither."""

    def __init__(self, *, with_keys: bool, before: Handshakes | None = None) -> None:
        """``before``: of the socket before this one, whose last words hold until there are new."""
        self._with_keys = with_keys
        self.refusal = ""
        self.hint: str = "" if before is None else before.hint
        self._connected = False
        self._connected_s = time.monotonic() if before is not None and before.reached else -math.inf

    @property
    def reached(self) -> bool:
        """Whether somebody listens at the address, whoever it is."""
        return self._connected or time.monotonic() - self._connected_s < LATELY_S

    def feed(self, parts: Sequence[bytes]) -> None:
        """A message of the monitor."""
        message = parse_monitor_message(list(parts))
        event = message["event"]
        if event in (zmq.Event.CONNECTED, zmq.Event.DISCONNECTED):
            self._connected = event == zmq.Event.CONNECTED
            self._connected_s = time.monotonic()
        elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.refusal = self.hint = ""
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self.refusal = NOT_LISTED
        elif event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            self.refusal = NO_KEYS_WANTED if self._with_keys else KEYS_WANTED
            if int(message["value"]) != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                self.refusal = NO_SERVER
        else:
            self.hint = WRONG_SERVER_KEY if self._with_keys else OTHER_PEER

    def raise_refusal(self) -> None:
        """Raises RemoteError where libzmq has given up: waiting would not help."""
        if self.refusal:
            raise RemoteError(
                ErrorCode.UNAUTHENTICATED, self.refusal, retryable=False, committed_step=-1
            )

    def lost(self, endpoint: str, timeout_s: float) -> ConnectionLost:
        """The error of a wait that was too long, with its probable cause."""
        hint = self.hint if self.reached else nobody_listens(endpoint)
        return ConnectionLost(endpoint, timeout_s, hint=hint)

    def raise_absence(self, endpoint: str, waited_s: float) -> None:
        """Raises NobodyListens where no connection has come about."""
        if not self.reached:
            raise NobodyListens(endpoint, waited_s, hint=nobody_listens(endpoint))


def nobody_listens(endpoint: str) -> str:
    return (
        f"nobody listens at {endpoint}; start it: sim-stream serve --bind {endpoint} "
        "(it listens once it says `ready`)"
    )


def monitor(context: Any, socket: Any) -> Any:
    """The socket that tells of another's handshakes. Of zmq or zmq.asyncio, as the two given ones.

    ``close`` ends both. Raises ZMQError.
    """
    address = f"inproc://handshakes-{secrets.token_hex(8)}"
    socket.monitor(address, EVENTS)
    pair = context.socket(zmq.PAIR)
    pair.linger = 0
    pair.rcvhwm = 0  # none: libzmq's thread waits, and all its sockets with it, while this is full
    pair.connect(address)
    return pair


def close(socket: Any, pair: Any, *, linger_ms: int) -> None:
    """The monitor is detached first: libzmq's thread would wait for a reader that has gone."""
    socket.disable_monitor()
    socket.close(linger=linger_ms)
    pair.close()
