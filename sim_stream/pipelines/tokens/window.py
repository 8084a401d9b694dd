"""FrameWindow: the last three frames' ids in a ring, never shifted (OpenViCA Sec. III-A c).

Only the ring's index moves; a push writes one slot in place. Knows nothing about decoding.

Legend: N codes of a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sim_stream.errors import InvalidInput

SLOTS = 3


class FrameWindow:
    """Ids (3 N) on the device. The newest frame is t+1 of the video decoder's window."""

    def __init__(self, codes_per_frame: int, device: torch.device | str = "cpu") -> None:
        self.ids_3N = torch.zeros(SLOTS, codes_per_frame, dtype=torch.int64, device=device)
        # Row r is the order oldest..newest when the newest frame lies in slot r.
        order = [[(newest - age) % SLOTS for age in (2, 1, 0)] for newest in range(SLOTS)]
        self._order = torch.tensor(order, device=device)
        self._newest = SLOTS - 1
        self.filled = 0

    def push(self, ids_N: Tensor) -> None:
        self._newest = (self._newest + 1) % SLOTS
        self.ids_3N[self._newest].copy_(ids_N)
        self.filled = min(self.filled + 1, SLOTS)

    def clear(self) -> None:
        self.filled = 0

    def latest(self, frames: int) -> Tensor:
        """The newest `frames` frames, oldest first, (frames N). Raises InvalidInput.

        A gather: what it gives stays as it is while later pushes overwrite the ring.
        """
        if not 1 <= frames <= self.filled:
            raise InvalidInput("frames", frames, f"1..{self.filled}, the frames in the window")
        return self.ids_3N.index_select(0, self._order[self._newest, SLOTS - frames :])

    def fork(self) -> FrameWindow:
        twin = object.__new__(FrameWindow)
        twin.ids_3N, twin._order = self.ids_3N.clone(), self._order
        twin._newest, twin.filled = self._newest, self.filled
        return twin
