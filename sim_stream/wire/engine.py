"""What the server needs of a runtime, as protocols; ``sim_stream.runtime`` fulfils them.

Threads: all methods of ``Runtime``, ``Session`` and ``Prediction`` are called from the engine
thread, one at a time. ``Pending.render`` is called from the decoder thread, once, in the order of
``result``, while the engine thread may already predict the same session's next steps (at most
``max_in_flight`` pendings of a session are unrendered). ``reset``, ``flush``, ``fork`` and
``close`` are called only when the session has no step under way and no pending left.

Knows no tensors: a frame is a numpy image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sim_stream.config import Action, DecodingConfig, Preset, SamplingConfig
from sim_stream.expects import Expects

Image = npt.NDArray[np.uint8]


class Frame(Protocol):
    """A decoded frame, [H, W, 3] uint8; its image is never written again."""

    @property
    def image(self) -> Image: ...
    @property
    def step(self) -> int: ...
    @property
    def frame_id(self) -> int: ...
    @property
    def lag_frames(self) -> int: ...
    @property
    def final(self) -> bool: ...
    @property
    def approximated(self) -> bool: ...
    @property
    def inflated(self) -> bool: ...
    @property
    def accepted(self) -> Sequence[int]: ...
    @property
    def timings_ns(self) -> Mapping[str, int]: ...


class Pending(Protocol):
    """A predicted step whose pixels are still to be decoded."""

    def render(self) -> Frame: ...


class Prediction(Protocol):
    """A step under way: every ``Runtime.advance`` takes it further until it is ``done``."""

    @property
    def done(self) -> bool: ...

    def result(self) -> Pending:
        """Takes the step over into its session, once; raises what it failed with."""
        ...


class Session(Protocol):
    """One stream. ``begin`` raises InvalidInput before it changes anything."""

    @property
    def committed_step(self) -> int: ...

    @property
    def prompt_psnr_db(self) -> float:
        """Since the last reset: of its last prompt frame and the frame that it gave; finite."""
        ...

    def reset(
        self,
        frames_THWC: Image,
        *,
        seed: int,
        text: str | None = None,
        actions: Sequence[Action | None] | None = None,
        sampling: SamplingConfig | None = None,
        decoding: DecodingConfig | None = None,
    ) -> Frame: ...

    @property
    def takes_deadline(self) -> bool:
        """Whether a step can ship its frame early."""
        ...

    def begin(
        self, action: Action | None = None, *, deadline_ms: float | None = None
    ) -> Prediction: ...

    def settle(self) -> None:
        """Does in advance what the next step needs whatever its action."""
        ...

    def flush(self) -> Frame | None: ...

    def fork(self) -> Session: ...

    def close(self) -> None: ...


class Runtime(Protocol):
    """A loaded model that opens sessions."""

    @property
    def preset(self) -> Preset: ...
    @property
    def model_id(self) -> str: ...
    @property
    def weights_sha256(self) -> str: ...
    @property
    def expects(self) -> Expects: ...

    def open_session(self, *, lookahead: int | None = None) -> Session: ...

    def advance(self) -> None:
        """Takes all steps under way a little further."""
        ...
