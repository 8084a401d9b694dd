"""Finding a server again, and a session on it: what a client does when its server was restarted.

Operations (``operations``), for the blocking and the asyncio client alike. Knows no steps.
"""

from __future__ import annotations

import time

from sim_stream.errors import ProtocolError, RemoteError
from sim_stream.wire.mailbox import Received
from sim_stream.wire.messages import ErrorCode, Hello, HelloOk, Message, Opened, Resume
from sim_stream.wire.operations import Operation, Pause, ask

# After these errors the server may be another one by now, and the session in its recordings.
LOST = frozenset({"CONNECTION_LOST", ErrorCode.SHUTTING_DOWN, ErrorCode.NO_SESSION})
# Errors that pass while a server comes up.
COMING = frozenset({"CONNECTION_LOST", ErrorCode.SHUTTING_DOWN, ErrorCode.BUSY})
HELLO_S = 1.0
PAUSE_S = 0.1


def find_server(give_up_s: float) -> Operation[HelloOk]:
    """Whoever answers; asks until then. Raises RemoteError when the monotonic clock says so."""
    reply = (yield from _persevere(Hello(), HELLO_S, give_up_s)).message
    if not isinstance(reply, HelloOk):
        raise ProtocolError("reply", type(reply).__name__, "hello_ok")
    return reply


def resume(token: str, timeout_s: float, give_up_s: float) -> Operation[Opened]:
    """The session of that token, on the server that is there now. Raises RemoteError.

    It may take as long as the server needs to make every step of the session again.
    """
    reply = (yield from _persevere(Resume(resume_token=token), timeout_s, give_up_s)).message
    if not isinstance(reply, Opened):
        raise ProtocolError("reply", type(reply).__name__, "opened")
    return reply


def _persevere(message: Message, timeout_s: float, give_up_s: float) -> Operation[Received]:
    while True:
        left_s = max(give_up_s - time.monotonic(), 0.0)
        try:
            return (yield from ask(message, timeout_s=min(timeout_s, left_s), anew=True))
        except RemoteError as error:
            if error.code not in COMING or time.monotonic() >= give_up_s:
                raise
        yield Pause(PAUSE_S)
