"""A session of another client, as the server's PUB socket shows it: to be looked at only.

Knows frames; not where they come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sim_stream.view.channel import Channel
from sim_stream.view.messages import SessionState
from sim_stream.view.picture import Picture, header_of
from sim_stream.wire.client.frame import RemoteChunk

# No message says that a session was closed: one that is silent for so long is forgotten.
SILENT_S = 30.0


class Foreign(Channel):
    def __init__(self, sid: str, name: int, changed: Callable[[], None]) -> None:
        super().__init__(sid, name, changed)
        self._last_s = asyncio.get_running_loop().time()

    @property
    def silent(self) -> bool:
        return asyncio.get_running_loop().time() - self._last_s > SILENT_S

    def take(self, chunk: RemoteChunk) -> None:
        self._last_s = asyncio.get_running_loop().time()
        header = header_of(self.sid, chunk, None, chunk.queue_depth)
        del header.timings_ms["round_trip"]  # only its own client knows it
        self.show(Picture(header, chunk.images))

    def state(self) -> SessionState:
        return SessionState(
            sid=self.sid,
            name=self.name,
            state="foreign",
            committed_step=self.latest.header.committed_step if self.latest else -1,
            viewers=self.watched,
        )
