"""What viewers can watch: a session's latest frame, and who is watching.

Knows nothing about where its frames come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from sim_stream.view.messages import SessionState
from sim_stream.view.picture import Picture
from sim_stream.view.viewer import Viewer


class Channel(ABC):
    """``changed`` is called whenever the session list would look different."""

    def __init__(self, sid: str, name: int, changed: Callable[[], None]) -> None:
        self.sid = sid
        self.name = name
        self.latest: Picture | None = None
        self._viewers: set[Viewer] = set()
        self._changed = changed

    @property
    def watched(self) -> int:
        return len(self._viewers)

    def join(self, viewer: Viewer) -> None:
        self._viewers.add(viewer)
        viewer.turn_to(self.sid, self.latest)
        self._changed()

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self._changed()

    def show(self, picture: Picture) -> None:
        self.latest = picture
        for viewer in self._viewers:
            viewer.offer(picture)
        self._changed()

    @abstractmethod
    def state(self) -> SessionState:
        """The session's row in the page's list."""
