"""The tokens that bring recorded sessions back after a restart.

A token is the session's id and a signature of it, by a key that outlives the server. It is checked
before anything is read.
"""

from __future__ import annotations

import hashlib
import hmac

from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.server.faults import Refusal


def sign(key: bytes, sid: str, owner: str) -> str:
    """The token of a session; ``owner``: the key of the client that opened it, "" without."""
    signature = hmac.new(key, f"{sid} {owner}".encode(), hashlib.sha256).hexdigest()
    return f"{sid}.{signature[:32]}"


def signed_sid(key: bytes, token: str, owner: str) -> str:
    """The session of its owner's token. Raises Refusal."""
    sid, _, _ = token.partition(".")
    # Compared as bytes: a text beyond ASCII is no reason to fail.
    if not hmac.compare_digest(sign(key, sid, owner).encode(), token.encode()):
        raise Refusal(ErrorCode.NO_SESSION, "resume_token: not one of this server's")
    return sid
