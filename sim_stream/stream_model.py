"""The contract between the server and whatever makes frames: one for every kind of world.

    StreamModel.open_session -> WorldSession.reset -> Chunk
    WorldSession.begin -> Prediction (advanced by StreamModel.advance) -> Pending.render -> Chunk

Threads: all methods of ``StreamModel``, ``WorldSession`` and ``Prediction`` are called from the
engine thread, one at a time. ``Pending.render`` is called from the decoder thread, once, in the
order of ``result``, while the engine thread may already predict the same session's next steps (at
most ``max_in_flight`` pendings of a session are unrendered). ``reset``, ``flush``, ``fork`` and
``close`` are called only when the session has no step under way and no pending left, ``reseed``
when it has no step under way.

What a session gives is a function of weights, prompt, inputs, options and seed alone. Values are
checked by the model's spec (``sim_stream.spec``) before a session sees them; what the spec cannot
say the session itself refuses, with InvalidInput and before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_stream.spec import Inputs, StreamSpec

Image = npt.NDArray[np.uint8]

# Marks of frames, and what they mean.
APPROXIMATED = "approximated"  # may differ from what exact decoding gives
INFLATED = "inflated"  # made by a video decoder that was never trained in time


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The frames that leave together, [N, H, W, 3] uint8, never written again.

    ``first_frame_id`` is the first one's, the others follow. ``lag_frames``: how many frames later
    than predicted they leave. ``final`` is False when they come again, revised. ``stats``: a
    model's own counts, by name. ``timings_ns``: a duration per stage. ``prompt_psnr_db``, of the
    chunk of a reset: how close the last prompt frame is to what the model shows of it.
    """

    images: Image
    first_frame_id: int
    lag_frames: int = 0
    final: bool = True
    marks: frozenset[str] = frozenset()
    stats: Mapping[str, Sequence[float]] = field(default_factory=dict)
    timings_ns: Mapping[str, int] = field(default_factory=dict)
    prompt_psnr_db: float | None = None


class Pending(Protocol):
    """A predicted step whose pixels are still to be made."""

    def render(self) -> Chunk: ...


class Prediction(Protocol):
    """A step under way: every ``StreamModel.advance`` takes it further until it is ``done``."""

    @property
    def done(self) -> bool: ...

    def result(self) -> Pending:
        """Takes the step over into its session, once; raises what it failed with."""
        ...


class WorldSession(Protocol):
    """One stream. Step 0 is the prompt; ``begin`` predicts the step after the last."""

    def reset(
        self,
        frames_THWC: Image,
        *,
        seed: int,
        inputs: Inputs,
        prompt_inputs: Sequence[Inputs],
        options: Inputs,
    ) -> Chunk | None:
        """Starts over from prompt frames; the chunk of step 0, or None without prompt frames.

        ``prompt_inputs`` has one entry per prompt frame, the step inputs that led to it, or none.
        ``options`` left out have the spec's defaults.
        """
        ...

    @property
    def takes_deadline(self) -> bool:
        """Whether a step can ship its frames early."""
        ...

    def begin(self, inputs: Inputs, *, deadline_ms: float | None = None) -> Prediction:
        """Raises InvalidInput before it changes anything."""
        ...

    def prefill_ahead(self) -> None:
        """Does in advance what the next step needs whatever its inputs."""
        ...

    def flush(self) -> Chunk | None:
        """What the lookahead still holds, at the end."""
        ...

    def fork(self) -> WorldSession:
        """An independent session in the same state. Raises Unavailable where there is no room."""
        ...

    def reseed(self, seed: int) -> None:
        """Further noise is that seed's, also what was drawn ahead."""
        ...

    def close(self) -> None: ...


class StreamModel(Protocol):
    """A loaded model that opens sessions."""

    @property
    def spec(self) -> StreamSpec: ...

    def open_session(self, *, lookahead: int) -> WorldSession:
        """Raises Unavailable where there is no room for another one."""
        ...

    def advance(self) -> None:
        """Takes all steps under way a little further, those of all sessions together."""
        ...
