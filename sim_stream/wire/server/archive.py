"""Sessions that were recorded, and the tokens that bring them back after a restart.

A token is the session's id and a signature of it, by a key that outlives the server. It is checked
before anything is read. Knows no files; ``recording.archive`` does.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol

from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.observe import Past
from sim_stream.wire.server.faults import Refusal

# By how many steps a session's recording may be behind its replies; a client that remembers as many
# loses none. A recording that falls further behind is given up.
RESUME_STEPS = 1024


class Archive(Protocol):
    """``key`` signs tokens and is the same after a restart."""

    @property
    def key(self) -> bytes: ...

    def find(self, sid: str, *, model_id: str, weights_sha256: str) -> Past:
        """Raises Refusal where there is nothing that this model could go on from."""
        ...


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
