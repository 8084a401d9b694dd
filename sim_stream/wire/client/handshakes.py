"""Why a client does not get through to its server: what the socket's handshakes say.

ZeroMQ tries again in the background and tells nobody why it fails; its monitor does. Some failures
end all attempts, others may pass. Shared by the blocking and the asyncio connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from sim_stream.errors import ConnectionLost, RemoteError
from sim_stream.wire.messages import ErrorCode

EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)

NOT_LISTED = "the server does not know this client's key; put its .pub file on the server's --allow"
KEYS_WANTED = "the server asks for keys and this client has none; give key and server_key"
NO_KEYS_WANTED = "this client has keys and the server none; leave out key and server_key"
NO_SERVER = "what answers there breaks ZeroMQ's protocol; it is no sim-stream server"
BROKEN_OFF = "the server breaks off the handshake; "
WRONG_SERVER_KEY = BROKEN_OFF + "probably server_key is not its public key"
OTHER_PEER = BROKEN_OFF + "it asks for keys, or is no sim-stream server"


class Handshakes:
    """``refusal``: why it is over; ``hint``: why the last attempt failed. "" for neither."""

    def __init__(self, *, with_keys: bool) -> None:
        self._with_keys = with_keys
        self.refusal = ""
        self.hint = ""

    def feed(self, parts: Sequence[bytes]) -> None:
        """A message of the monitor."""
        message = parse_monitor_message(list(parts))
        event = message["event"]
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
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
        return ConnectionLost(endpoint, timeout_s, hint=self.hint)


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
