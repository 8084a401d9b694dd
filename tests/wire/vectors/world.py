"""A model of any spec, to refuse what the spec refuses: its frames show how many steps they had.

Fulfils ``sim_stream.stream_model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim_stream.spec import Inputs, StreamSpec
from sim_stream.stream_model import Chunk, Image


@dataclass(frozen=True)
class DoneChunk:
    """A prediction and its pending at once."""

    chunk: Chunk
    done: bool = True

    def result(self) -> DoneChunk:
        return self

    def render(self) -> Chunk:
        return self.chunk


@dataclass
class AnySession:
    spec: StreamSpec
    steps: int = 0
    takes_deadline: bool = False

    def reset(
        self,
        frames_THWC: Image,
        *,
        seed: int,
        inputs: Inputs,
        prompt_inputs: Sequence[Inputs],
        options: Inputs,
    ) -> Chunk | None:
        self.steps = 0
        return Chunk(images=frames_THWC[-1:], first_frame_id=0) if len(frames_THWC) else None

    def begin(self, inputs: Inputs, *, deadline_ms: float | None = None) -> DoneChunk:
        self.steps += 1
        count = self.spec.frames_per_step
        images = np.full((count, *self.spec.frame_shape), self.steps % 256, np.uint8)
        return DoneChunk(Chunk(images=images, first_frame_id=(self.steps - 1) * count + 1))

    def prefill_ahead(self) -> None:
        pass

    def flush(self) -> Chunk | None:
        return None

    def fork(self) -> AnySession:
        return replace(self)

    def reseed(self, seed: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class AnyWorld:
    spec: StreamSpec

    def open_session(self, *, lookahead: int) -> AnySession:
        return AnySession(self.spec)

    def advance(self) -> None:
        pass
