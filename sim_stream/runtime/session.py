"""Session: one drive. Prompt frames in, then one predicted frame a step, for as long as it lasts.

What comes out is a function of weights, prompt frames, actions, sampling and seed alone. Frame 0 is
the last prompt frame; step n predicts frame n under action n. With a lookahead of one frame the
reply to step n carries frame n-1, decoded with both neighbours, and `flush` gives the last one;
without lookahead it carries frame n, its right neighbour zero padding. The ids are the same.

When the context is full the session re-anchors: the last frames are prefilled at fresh positions.
Knows nothing about sockets. One owner at a time; `Pending.render` may run on another thread.

Legend: T frames, H height, W width, N codes of a frame, S positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import Action, DecodingConfig, SamplingConfig, SessionConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.strategy import Decoded, Task
from sim_stream.errors import InvalidInput, SessionClosed
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.vq_model import from_pixels, to_pixels
from sim_stream.runtime.timing import StageClock
from sim_stream.runtime.window import SLOTS, FrameWindow

if TYPE_CHECKING:
    from sim_stream.runtime.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame that leaves: pixels (H W 3) uint8 and what is known about them.

    `final` is false where a later reply brings the same frame with its right neighbour known.
    `approximated`: codes of it or of its neighbours may be others than raster decoding's.
    `accepted`: codes that each pass of the world model added, in the step that this frame answers.
    """

    image: np.ndarray
    step: int
    frame_id: int
    lag_frames: int
    final: bool
    approximated: bool
    accepted: tuple[int, ...]
    timings_ns: dict[str, int]


class Pending:
    """A predicted step whose pixels are still to be made; `render` makes them, on any thread."""

    def __init__(
        self, runtime: Runtime, ids_TN: Tensor, emit: int, frame_id: int, step: int, *,
        final: bool, approximated: bool, accepted: tuple[int, ...], clock: StageClock,
    ) -> None:  # fmt: skip
        self._runtime, self._ids_TN, self._emit = runtime, ids_TN, emit
        self._frame_id, self._step, self._final, self._clock = frame_id, step, final, clock
        self._approximated, self.accepted = approximated, accepted

    @torch.inference_mode()
    def render(self) -> Frame:
        with self._clock.stage("video_decode"):
            x_1CHW = self._runtime.video_decoder(self._ids_TN[None], self._emit)
            image = to_pixels(x_1CHW[0]).cpu().numpy()
        return Frame(
            image=image,
            step=self._step,
            frame_id=self._frame_id,
            lag_frames=self._step - self._frame_id,
            final=self._final,
            approximated=self._approximated,
            accepted=self.accepted,
            timings_ns=self._clock.timings_ns,
        )


class Session:
    """Made by `Runtime.open_session`. `reset` comes first; `close` is idempotent."""

    def __init__(self, runtime: Runtime, config: SessionConfig) -> None:
        self._runtime, self.config = runtime, config
        layout = runtime.layout
        capacity = layout.context_length(config.context_frames)
        self._cache = KVCache(
            runtime.preset.world_model, capacity, device=runtime.device, dtype=runtime.dtype
        )
        self._set_decoding(runtime.preset.decoding)
        # Ids of the whole context; the cache holds the first `cache.length` of them, the rest
        # (a frame's last code and end-of-frame id) is pending and enters with the next pass.
        self._ids_1S = torch.zeros(1, capacity, dtype=torch.int64, device=runtime.device)
        self._window = FrameWindow(layout.codes_per_frame, runtime.device)
        # Whether each frame of the window is an approximation, newest last.
        self._approximated = [False] * SLOTS
        self._accepted: tuple[int, ...] = ()
        self._frames = 0
        self._seed, self._sampling = 0, runtime.preset.sampling
        self.committed_step = -1
        self._closed = False

    # -- the public life of a session -------------------------------------------------------------

    @torch.inference_mode()
    def reset(
        self,
        frames_THWC: np.ndarray,
        *,
        seed: int,
        text: str | None = None,
        actions: Sequence[Action | None] | None = None,
        sampling: SamplingConfig | None = None,
        decoding: DecodingConfig | None = None,
    ) -> Frame:
        """Starts over from prompt frames; gives frame 0, the last of them.

        `actions`: what led to each prompt frame (None: unknown). Raises InvalidInput.
        """
        self._check_open()
        self._check_frames(frames_THWC)
        self._runtime.check_seed(seed)
        self._runtime.check_text(text)
        sampling = self._runtime.check_sampling(sampling)
        decoding = self._runtime.check_decoding(decoding)
        leads = self._context_actions(actions, len(frames_THWC))
        clock = StageClock(self._runtime.device)
        with clock.stage("encode"):
            pixels = torch.from_numpy(np.array(frames_THWC)).to(self._runtime.device)
            ids_TN = self._runtime.encoder.encode(from_pixels(pixels).to(self._runtime.dtype))
        self._seed, self._sampling, self.committed_step = seed, sampling, 0
        self._set_decoding(decoding)
        self._approximated, self._accepted = [False] * SLOTS, ()
        self._window.clear()
        self._start_context()
        for ids_N, lead in zip(ids_TN, leads, strict=True):
            self._append_frame(lead, ids_N)
            self._window.push(ids_N)
        with clock.stage("prefill"):
            self._prefill()
        return self._pending(clock, right_slot=True).render()

    @torch.inference_mode()
    def predict(self, action: Action | None = None, *, deadline_ms: float | None = None) -> Pending:
        """The world model's part of a step. Raises InvalidInput before anything changes.

        `deadline_ms` from now: jacobi then ships the guess it has. Other strategies take none.
        """
        self._check_started()
        expired = self._deadline(deadline_ms)
        lead = self._runtime.layout.action_ids(action)
        clock = StageClock(self._runtime.device)
        if self._frames == self.config.context_frames:
            with clock.stage("re_anchor"):
                self._re_anchor()
        with clock.stage("world_model"):
            decoded = self._decode(lead, expired)
        self._append_frame(lead, decoded.ids_N)
        self._window.push(decoded.ids_N)
        self._approximated = [*self._approximated[1:], decoded.approximated]
        self._accepted = decoded.accepted
        self.committed_step += 1
        return self._pending(clock, right_slot=self.config.lookahead == 0)

    def step(self, action: Action | None = None, *, deadline_ms: float | None = None) -> Frame:
        """`predict` and `render` in one."""
        return self.predict(action, deadline_ms=deadline_ms).render()

    def flush(self) -> Frame | None:
        """The last frame, from the right slot of the last window; None if none is held back."""
        self._check_started()
        if self.config.lookahead == 0 or self.committed_step == 0:
            return None
        return self._pending(StageClock(self._runtime.device), right_slot=True, final=True).render()

    @torch.inference_mode()
    def fork(self) -> Session:
        """An independent session in the same state: equal actions give equal frames."""
        self._check_started()
        twin = object.__new__(Session)
        twin.__dict__.update(self.__dict__)
        twin._cache, twin._window = self._cache.fork(), self._window.fork()
        twin._set_decoding(self._decoding)
        twin._ids_1S = self._ids_1S.clone()
        return twin

    def close(self) -> None:
        """Frees the cache."""
        if not self._closed:
            self._closed = True
            del self._cache, self._strategy, self._window, self._ids_1S

    @property
    def takes_deadline(self) -> bool:
        """Whether `predict` can ship a frame early: only jacobi always has a complete guess."""
        return self._decoding.strategy == "jacobi"

    @property
    def latest_ids(self) -> Tensor:
        """Codes (N,) of the newest frame of the context."""
        self._check_started()
        return self._window.latest(1)[0]

    # -- context ----------------------------------------------------------------------------------

    def _start_context(self) -> None:
        """An empty context but for the prompt text, whose keys and values are computed once."""
        prompt = self._runtime.prompt_ids
        self._frames = 0
        if prompt and self._cache.length < len(prompt):
            ids_1S = torch.tensor([prompt], device=self._runtime.device)
            self._ids_1S[:, : len(prompt)] = ids_1S
            self._runtime.world_model(
                ids_1S, torch.zeros_like(ids_1S, dtype=torch.bool), self._cache
            )
        self._cache.roll_back(len(prompt))

    def _append_frame(self, lead: Sequence[int], ids_N: Tensor) -> None:
        layout = self._runtime.layout
        start, codes = layout.frame_start(self._frames), layout.code_start(self._frames)
        self._ids_1S[0, start:codes] = torch.tensor(lead, dtype=torch.int64)
        self._ids_1S[0, codes : codes + layout.codes_per_frame] = ids_N
        self._ids_1S[0, codes + layout.codes_per_frame] = layout.end_of_frame
        self._frames += 1

    def _prefill(self) -> None:
        """Everything up to the last frame's last code, which stays pending."""
        end = self._runtime.layout.frame_start(self._frames) - 2
        ids_1S = self._ids_1S[:, self._cache.length : end]
        if ids_1S.shape[1]:
            self._runtime.world_model(ids_1S, None, self._cache)

    def _re_anchor(self) -> None:
        """Keeps the last `anchor_frames` frames, prefilled at fresh positions."""
        layout, keep = self._runtime.layout, self.config.anchor_frames
        source = slice(layout.frame_start(self._frames - keep), layout.frame_start(self._frames))
        kept_1S = self._ids_1S[:, source].clone()
        self._cache.roll_back(layout.prompt_length)
        self._ids_1S[:, layout.frame_start(0) : layout.frame_start(keep)] = kept_1S
        self._frames = keep
        self._prefill()

    def _set_decoding(self, decoding: DecodingConfig) -> None:
        self._decoding = decoding
        self._strategy = self._runtime.make_strategy(self._cache, decoding)

    def _decode(self, lead: Sequence[int], expired: Callable[[], bool] | None) -> Decoded:
        """Codes of the next frame; on an error the cache is as it was."""
        runtime, layout, start = self._runtime, self._runtime.layout, self._cache.length
        noise_NV = gumbel_noise(
            self._seed,
            self.committed_step + 1,
            layout.codes_per_frame,
            layout.num_codes,
            runtime.device,
        )
        pending = self._ids_1S[:, start : layout.frame_start(self._frames)]
        lead_1P = torch.tensor([list(lead)], dtype=torch.int64, device=runtime.device)
        feed_1P, guess_N = torch.cat([pending, lead_1P], 1), self._window.latest(1)[0]
        try:
            return self._strategy.decode(Task(feed_1P, noise_NV, self._sampling, guess_N, expired))
        except BaseException:
            self._cache.roll_back(min(start, self._cache.length))
            raise

    def _pending(
        self, clock: StageClock, *, right_slot: bool, final: bool | None = None
    ) -> Pending:
        """The render job of the frame that leaves now."""
        ids_TN = self._window.latest(min(self._window.filled, SLOTS))
        back = 1 if right_slot else 2
        return Pending(
            self._runtime,
            ids_TN,
            len(ids_TN) - back,
            self.committed_step - (back - 1),
            self.committed_step,
            final=self.config.lookahead == 0 or not right_slot if final is None else final,
            approximated=any(self._approximated[-len(ids_TN) :]),
            accepted=self._accepted,
            clock=clock,
        )

    # -- checks -----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise SessionClosed("this session was closed; open a new one")

    def _check_started(self) -> None:
        self._check_open()
        if self.committed_step < 0:
            raise InvalidInput("session", "no prompt frames yet", "reset before the first step")

    def _deadline(self, deadline_ms: float | None) -> Callable[[], bool] | None:
        if deadline_ms is None:
            return None
        if not self.takes_deadline:
            raise InvalidInput("deadline_ms", deadline_ms, "null, unless the strategy is jacobi")
        if not 0 < deadline_ms < math.inf:
            raise InvalidInput("deadline_ms", deadline_ms, "milliseconds from now, above 0")
        end_s = time.monotonic() + deadline_ms / 1000.0
        return lambda: time.monotonic() >= end_s

    def _check_frames(self, frames_THWC: np.ndarray) -> None:
        size, most = self._runtime.preset.vq.image_size, self.config.context_frames - 1
        shape, dtype = frames_THWC.shape, frames_THWC.dtype
        if len(shape) != 4 or shape[1:] != (size, size, 3) or not 1 <= shape[0] <= most:
            raise InvalidInput("frames", shape, f"(1..{most}, {size}, {size}, 3)")
        if dtype != np.uint8:
            raise InvalidInput("frames", dtype, "uint8")

    def _context_actions(
        self, actions: Sequence[Action | None] | None, frames: int
    ) -> list[tuple[int, ...]]:
        if actions is None:
            actions = [None] * frames
        if len(actions) != frames:
            raise InvalidInput("actions", f"{len(actions)} of them", f"one per frame: {frames}")
        return [self._runtime.layout.action_ids(a) for a in actions]
