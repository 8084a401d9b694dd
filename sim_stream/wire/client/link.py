"""What a client's sessions ask of their connection without waiting, and of its server.

Fulfilled by the blocking and the asyncio connection. Knows no sockets.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

from sim_stream.errors import ProtocolError
from sim_stream.wire.client.operations import Operation, ask_until_answered
from sim_stream.wire.messages import Heartbeat, Hello, HelloOk, Message, Status


class Link(Protocol):
    """``timeout_s`` for one answer, ``resume_s`` for a restarted server to come back.

    ``sids``: the sessions that the server is told of when the connection ends.
    """

    timeout_s: float
    resume_s: float
    sids: set[str]

    @property
    def info(self) -> HelloOk: ...
    @property
    def closed(self) -> bool: ...
    def expects(self, rid: int) -> bool: ...
    def forget(self, rid: int) -> None: ...
    def was_dropped(self, rid: int) -> bool: ...
    def send_unanswered(self, message: Message) -> bool: ...
    def orphan(self, sid: str) -> None: ...
    def require_owner(self) -> None: ...


def say_hello(link: Link, *, anew: bool = False) -> Operation[HelloOk]:
    """``anew``: to whatever server answers now, although the last one sent its shutdown notice."""
    asking = ask_until_answered(Hello(), timeout_s=link.timeout_s, anew=anew)
    reply = (yield from asking).message
    if not isinstance(reply, HelloOk):
        raise ProtocolError("reply", type(reply).__name__, "hello_ok")
    return reply


def request_status(link: Link, sid: str) -> Operation[Status]:
    heartbeat = Heartbeat(sid=sid, client_send_ns=time.monotonic_ns())
    reply = (yield from ask_until_answered(heartbeat, timeout_s=link.timeout_s)).message
    if not isinstance(reply, Status):
        raise ProtocolError("reply", type(reply).__name__, "status")
    return reply


def new_key() -> str:
    """For an open or a fork of one's own: nobody else will ever come up with it."""
    return secrets.token_hex(16)
