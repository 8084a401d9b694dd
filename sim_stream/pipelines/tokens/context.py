"""Context: the sequence that the world model sees, the cache over it, and how it never ends.

When the context is full it *re-anchors*: its last frames become the first ones of a new context, at
fresh positions, after the drive's first frames where those are kept. Their keys and values are not
computed then: as each of these frames is made, `prefill_ahead` prefills it into a second cache, and
re-anchoring copies that one over the first.

Knows nothing about pixels, noise or sampling. One owner at a time.

Legend: S positions, P positions that enter with the next pass, N codes of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sim_stream.config import SessionConfig
from sim_stream.layout import FrameLayout
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import WorldModel
from sim_stream.runtime.timing import to_device


class Context:
    """`cache` holds the first positions of the context; the rest (a frame's last code and
    end-of-frame id) is pending and enters with the next pass."""

    def __init__(
        self,
        model: WorldModel,
        layout: FrameLayout,
        config: SessionConfig,
        prompt_ids: Sequence[int],
        cache: KVCache,
    ) -> None:
        self.cache, self.frames = cache, 0
        self._model, self._layout, self._config = model, layout, config
        anchored = layout.context_length(config.anchor_frames)
        self._second = KVCache(model.config, anchored, device=cache.device, dtype=cache.dtype)
        capacity = layout.context_length(config.context_frames)
        self._ids_1S = torch.zeros(1, capacity, dtype=torch.int64, device=cache.device)
        if prompt_ids:
            ids_1S = to_device([*prompt_ids], cache.device)[None]
            self._ids_1S[:, : len(prompt_ids)] = ids_1S
            model(ids_1S, torch.zeros_like(ids_1S, dtype=torch.bool), cache)

    @property
    def full(self) -> bool:
        return self.frames == self._config.context_frames

    def clear(self) -> None:
        """Empty but for the prompt text, whose keys and values were computed once."""
        self.frames = 0
        self.cache.roll_back(self._layout.prompt_length)
        self._second.copy_from(self.cache)

    def append(self, lead: Sequence[int], ids_N: Tensor) -> None:
        """A frame: the ids that lead to it, its codes, its end."""
        layout = self._layout
        start, codes = layout.frame_start(self.frames), layout.code_start(self.frames)
        self._ids_1S[0, start:codes] = to_device([*lead], ids_N.device)
        self._ids_1S[0, codes : codes + layout.codes_per_frame] = ids_N
        self._ids_1S[0, codes + layout.codes_per_frame] = layout.end_of_frame
        self.frames += 1

    def prefill(self) -> None:
        """Everything up to the last frame's last code, which stays pending."""
        end = self._layout.frame_start(self.frames) - 2
        self._feed(self.cache, slice(self.cache.length, end))

    def leading(self, lead: Sequence[int]) -> Tensor:
        """What enters the cache before the next frame's first code is drawn, (1 P)."""
        start, end = self.cache.length, self._layout.frame_start(self.frames)
        lead_1P = to_device([*lead], self._ids_1S.device)[None]
        return torch.cat([self._ids_1S[:, start:end], lead_1P], 1)

    def prefill_ahead(self) -> None:
        """Prefills what will outlive the next re-anchoring into the second cache."""
        layout, config = self._layout, self._config
        gone = config.context_frames - config.anchor_frames  # frames after the kept ones
        if self.frames <= config.sink_frames + gone:
            return
        kept = layout.frame_start(config.sink_frames)
        self._feed(self._second, slice(self._second.length, kept))
        moved = layout.frame_start(gone) - layout.frame_start(0)
        end = layout.frame_start(self.frames - gone) - 2
        self._feed(self._second, slice(self._second.length + moved, end + moved))

    def re_anchor(self) -> None:
        """Keeps `sink_frames` where they are and the newest frames, at fresh positions."""
        self.prefill_ahead()
        layout, keep = self._layout, self._config.anchor_frames
        kept = layout.frame_start(self._config.sink_frames)
        newest = keep - self._config.sink_frames
        source = slice(layout.frame_start(self.frames - newest), layout.frame_start(self.frames))
        newest_1S = self._ids_1S[:, source].clone()
        self._ids_1S[:, kept : layout.frame_start(keep)] = newest_1S
        self.cache.copy_from(self._second)
        self._second.roll_back(kept)
        self.frames = keep

    def fork(self, cache: KVCache) -> Context:
        """An independent copy over another cache."""
        twin = object.__new__(Context)
        twin.__dict__.update(self.__dict__)
        twin.cache, twin._ids_1S = cache, self._ids_1S.clone()
        twin._second = KVCache(
            self._model.config, self._second.capacity, device=cache.device, dtype=cache.dtype
        )
        cache.copy_from(self.cache)
        twin._second.copy_from(self._second)
        return twin

    def _feed(self, cache: KVCache, positions: slice) -> None:
        if positions.start < positions.stop:
            self._model(self._ids_1S[:, positions], None, cache)
