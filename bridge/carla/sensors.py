"""What a sensor sends, matched with the frame it belongs to.

CARLA calls a sensor's callback from a thread of its own, at some time after the tick: data of a
tick may come late, never, twice, or after the next tick's. `SensorQueue` hands out exactly the data
of the frame that is asked for, and counts what it had to throw away; `EventCount` is for sensors
that speak on events, a collision's. Neither knows a CARLA type: data is anything with a `frame`,
the number that `World.tick` returned.
"""

from __future__ import annotations

import threading
from typing import Any

from bridge.worlds import SceneFailed

MOST_WAITING = 16  # data of frames that nobody has asked for yet; an image is a megabyte


class SensorQueue:
    """One sensor's data by frame id; `put` is its callback, `take` waits for one frame's.

    `stale`: data of frames already behind us; `doubled`: a frame's second; `overflowed`: thrown
    away because nobody asked for `MOST_WAITING` frames.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stale = self.doubled = self.overflowed = 0
        self._waiting: dict[int, Any] = {}
        self._taken = -1
        self._arrived = threading.Condition()
        self._closed = False

    def put(self, data: Any) -> None:
        """The sensor's callback; never waits and never raises."""
        frame = int(data.frame)
        with self._arrived:
            if self._closed:
                return
            if frame <= self._taken:
                self.stale += 1
            elif frame in self._waiting:
                self.doubled += 1
            else:
                self._waiting[frame] = data
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[min(self._waiting)]
                    self.overflowed += 1
                self._arrived.notify_all()

    def take(self, frame: int, timeout_s: float) -> Any:
        """The data of that frame; older data is thrown away. Raises SceneFailed after timeout_s."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: frame in self._waiting, timeout_s):
                raise SceneFailed(self._missing(frame, timeout_s))
            data = self._waiting.pop(frame)
            behind = [earlier for earlier in self._waiting if earlier < frame]
            for earlier in behind:
                del self._waiting[earlier]
            self.stale += len(behind)
            self._taken = frame
            return data

    def close(self) -> None:
        """Whatever still comes is ignored. Idempotent."""
        with self._arrived:
            self._closed = True
            self._waiting.clear()

    def _missing(self, frame: int, timeout_s: float) -> str:
        newest = max(self._waiting, default=None)
        came = "nothing newer came" if newest is None else f"frame {newest} came instead"
        return f"CARLA's {self.name} sent nothing for frame {frame} within {timeout_s:g} s; {came}"


class EventCount:
    """How often a sensor that speaks on events has spoken; a late event counts when it comes."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def put(self, data: Any) -> None:
        """The sensor's callback."""
        with self._lock:
            self._count += 1

    def drain(self) -> int:
        """The number of events since the last call."""
        with self._lock:
            count, self._count = self._count, 0
            return count
