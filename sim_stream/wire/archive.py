"""What a server must know of the sessions that were recorded, to go on with one of them.

Knows no files; ``recording.archive`` does.
"""

from __future__ import annotations

from typing import Protocol

from sim_stream.errors import SimStreamError
from sim_stream.wire.observe import Past

# By how many steps a session's recording may be behind its replies; a client that remembers as many
# loses none. A recording that falls further behind is given up.
RESUME_STEPS = 1024


class NotResumable(SimStreamError):
    """A session that cannot be gone on with, and why."""


class Archive(Protocol):
    """``key`` signs tokens and is the same after a restart."""

    @property
    def key(self) -> bytes: ...

    def find(self, sid: str, *, model_id: str, weights_sha256: str) -> Past:
        """Raises NotResumable where there is nothing that this model could go on from."""
        ...
