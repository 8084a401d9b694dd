"""Session: one drive. Prompt frames in, then one predicted frame a step, for as long as it lasts.

What comes out is a function of weights, prompt frames, actions, sampling and seed alone. Frame 0 is
the last prompt frame; step n predicts frame n under action n. With a lookahead of one frame the
reply to step n carries frame n-1, decoded with both neighbours, and `flush` gives the last one;
without lookahead it carries frame n, its right neighbour zero padding. The ids are the same.

A step is begun, advanced pass by pass together with other sessions' (`Runtime.advance`), and its
result taken; `predict` does all three. Knows nothing about sockets. One owner at a time.

Legend: T frames, H height, W width, N codes of a frame, V codes.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import Action, DecodingConfig, SamplingConfig, SessionConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.slots import Slot
from sim_stream.decoding.static_slots import StaticSlot
from sim_stream.decoding.strategies import STRATEGIES
from sim_stream.decoding.strategy import Task
from sim_stream.errors import InvalidInput, SessionClosed
from sim_stream.expects import psnr_db
from sim_stream.models.kv_cache import KVCache
from sim_stream.pipelines.tokens.context import Context
from sim_stream.pipelines.tokens.frame import Frame, Pending
from sim_stream.pipelines.tokens.stack import Stack
from sim_stream.pipelines.tokens.window import SLOTS, FrameWindow
from sim_stream.runtime.timing import StageClock

P = ParamSpec("P")
T = TypeVar("T")


def on_model_stream(
    method: Callable[Concatenate[Session, P], T],
) -> Callable[Concatenate[Session, P], T]:
    """A method of a session runs without autograd and, on a GPU, on the world model's stream."""

    @functools.wraps(method)
    def run(self: Session, /, *args: P.args, **options: P.kwargs) -> T:
        with torch.inference_mode(), self._runtime.streams.world_model():
            return method(self, *args, **options)

    return run


class Prediction:
    """A step under way; `result` takes it over into its session once it is `done`."""

    def __init__(
        self,
        session: Session,
        slot: Slot | StaticSlot,
        lead: Sequence[int],
        cached: int,
        start_ns: int,
    ) -> None:
        self.session, self.slot, self.lead = session, slot, lead
        self.cached, self.start_ns = cached, start_ns

    @property
    def done(self) -> bool:
        return self.slot.done

    def result(self) -> Pending:
        """Raises what the pass raised; the session is then as it was before the step."""
        return self.session._finish(self)


class Session:
    """Made by `Runtime.open_session`; a context manager. `reset` comes first, `close` ends it."""

    def __init__(self, runtime: Stack, config: SessionConfig) -> None:
        self._runtime, self.config = runtime, config
        self._closed = False
        # Of the last prompt frame and frame 0, its reconstruction; a fork has its parent's.
        self.prompt_psnr_db = 0.0
        self._context = self._over_a_row(
            lambda cache: Context(
                runtime.world_model, runtime.layout, config, runtime.prompt_ids, cache
            )
        )
        self._window = FrameWindow(runtime.layout.codes_per_frame, runtime.device)
        self._decoding, self._sampling = runtime.preset.decoding, runtime.preset.sampling
        self._start(0)

    @on_model_stream
    def _over_a_row(self, make: Callable[[KVCache], Context]) -> Context:
        """A context over a row of the pool, which is free again where it cannot be made."""
        cache = self._runtime.pool.take()
        try:
            return make(cache)
        except BaseException:
            self._runtime.pool.give_back(cache)
            raise

    @on_model_stream
    def _start(self, seed: int) -> None:
        """A state without frames."""
        self._seed, self.committed_step = seed, -1
        # Whether each frame of the window is an approximation, newest last.
        self._approximated = [False] * SLOTS
        self._accepted: tuple[int, ...] = ()
        self._clock = StageClock(self._runtime.device)
        self._noise: Tensor | None = None  # of the next step
        self._prediction: Prediction | None = None
        self._context.clear()
        self._window.clear()

    # -- the public life of a session -------------------------------------------------------------

    @on_model_stream
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
        """Starts over from prompt frames; gives frame 0, the last of them as the model shows it:
        decoded from the ids of the last three, with no right neighbour. `prompt_psnr_db` says how
        close the two are, whatever the lookahead.

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
            ids_TN = self._runtime.engines.encode(pixels)
        self._drop_prediction()
        self._sampling, self._decoding = sampling, decoding
        self._start(seed)
        for ids_N, lead in zip(ids_TN, leads, strict=True):
            self._context.append(lead, ids_N)
            self._window.push(ids_N)
        with clock.stage("prefill"):
            self._context.prefill()
        self.committed_step = 0
        frame = self._pending(clock, right_slot=True).render()
        self.prompt_psnr_db = psnr_db(frames_THWC[-1], frame.image)
        return frame

    @on_model_stream
    def begin(
        self, action: Action | None = None, *, deadline_ms: float | None = None
    ) -> Prediction:
        """The first half of `predict`. Raises InvalidInput before anything changes."""
        self._check_started()
        if self._prediction is not None:
            raise InvalidInput("step", "one while another is under way", "one at a time")
        expired = self._deadline(deadline_ms)
        lead = self._runtime.layout.action_ids(action)
        if self._context.full:
            with self._clock.stage("re_anchor"):
                self._context.re_anchor()
        start_ns, cache = time.perf_counter_ns(), self._context.cache
        task = Task(
            cache,
            self._context.leading(lead),
            self._next_noise(),
            self._sampling,
            self._window.latest(1)[0],
            expired,
        )
        cached = cache.length
        slot = self._runtime.begin(self._decoding, task)
        self._prediction = Prediction(self, slot, lead, cached, start_ns)
        return self._prediction

    def predict(self, action: Action | None = None, *, deadline_ms: float | None = None) -> Pending:
        """The world model's part of a step. Raises InvalidInput before anything changes.

        `deadline_ms` from now: the strategy then ships the guess it has, if it is one that can.
        """
        prediction = self.begin(action, deadline_ms=deadline_ms)
        while not prediction.done:
            self._runtime.advance()
        return prediction.result()

    def step(self, action: Action | None = None, *, deadline_ms: float | None = None) -> Frame:
        """`predict` and `render` in one."""
        return self.predict(action, deadline_ms=deadline_ms).render()

    @on_model_stream
    def prefill_ahead(self) -> None:
        """Does in advance what the next step needs whatever its action: noise, second cache.

        For the time after a frame was predicted; a step does it itself where nobody did.
        """
        self._check_started()
        if self._prediction is None:
            with self._clock.stage("prefill_ahead"):
                self._next_noise()
                self._context.prefill_ahead()

    @on_model_stream
    def flush(self) -> Frame | None:
        """The last frame, from the right slot of the last window; None if none is held back."""
        self._check_started()
        if self.config.lookahead == 0 or self.committed_step == 0:
            return None
        return self._pending(StageClock(self._runtime.device), right_slot=True, final=True).render()

    @on_model_stream
    def fork(self) -> Session:
        """An independent session in the same state: equal actions give equal frames.

        Raises Unavailable where the runtime has no room for another session.
        """
        self._check_started()
        if self._prediction is not None:
            raise InvalidInput("fork", "a step under way", "between two steps")
        twin = object.__new__(Session)
        twin.__dict__.update(self.__dict__)
        twin._context = self._over_a_row(self._context.fork)
        twin._window, twin._clock = self._window.fork(), StageClock(self._runtime.device)
        return twin

    def reseed(self, seed: int) -> None:
        """Further noise is that seed's, also what was drawn ahead. Raises InvalidInput."""
        self._check_started()
        self._runtime.check_seed(seed)
        if self._prediction is not None:
            raise InvalidInput("reseed", "a step under way", "between two steps")
        self._seed, self._noise = seed, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives its part of the runtime's memory back."""
        if not self._closed:
            self._closed = True
            self._drop_prediction()
            self._runtime.pool.give_back(self._context.cache)
            del self._context, self._window

    @property
    def takes_deadline(self) -> bool:
        """Whether `predict` can ship a frame early."""
        return self._decoding.kind.takes_deadline

    @property
    def latest_ids(self) -> Tensor:
        """Codes (N,) of the newest frame of the context."""
        self._check_started()
        return self._window.latest(1)[0]

    # -- a step -----------------------------------------------------------------------------------

    @on_model_stream
    def _finish(self, prediction: Prediction) -> Pending:
        slot, cache = prediction.slot, self._context.cache
        assert self._prediction is prediction and slot.done, "a result is taken once, when done"
        self._prediction = None
        if slot.error is not None:
            cache.roll_back(min(prediction.cached, cache.length))
            raise slot.error
        assert slot.decoded is not None
        clock, self._clock = self._clock, StageClock(self._runtime.device)
        clock.add("world_model", prediction.start_ns)
        self._context.append(prediction.lead, slot.decoded.ids_N)
        self._window.push(slot.decoded.ids_N)
        self._approximated = [*self._approximated[1:], slot.decoded.approximated]
        self._accepted, self._noise = slot.decoded.accepted, None
        self.committed_step += 1
        return self._pending(clock, right_slot=self.config.lookahead == 0)

    def _drop_prediction(self) -> None:
        if self._prediction is not None:
            self._runtime.drop(self._prediction.slot)
            self._prediction = None

    def _next_noise(self) -> Tensor:
        """(N V) of the next step."""
        if self._noise is None:
            layout = self._runtime.layout
            self._noise = gumbel_noise(
                self._seed,
                self.committed_step + 1,
                layout.codes_per_frame,
                layout.num_codes,
                self._runtime.device,
            )
        return self._noise

    def _pending(
        self, clock: StageClock, *, right_slot: bool, final: bool | None = None
    ) -> Pending:
        """The render job of the frame that leaves now."""
        ids_TN = self._window.latest(min(self._window.filled, SLOTS))
        self._runtime.streams.hand_over(ids_TN)
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
            hurried = " or ".join(k.name for k in STRATEGIES.values() if k.takes_deadline)
            allowed = f"null, unless the strategy is {hurried}"
            raise InvalidInput("deadline_ms", deadline_ms, allowed)
        if not 0 < deadline_ms < math.inf:
            raise InvalidInput("deadline_ms", deadline_ms, "milliseconds from now, above 0")
        end_s = time.monotonic() + deadline_ms / 1000.0
        return lambda: time.monotonic() >= end_s

    def _check_frames(self, frames_THWC: np.ndarray) -> None:
        size, most = self._runtime.preset.vq.frame, self.config.context_frames - 1
        shape, dtype = frames_THWC.shape, frames_THWC.dtype
        if len(shape) != 4 or shape[1:] != size.shape or not 1 <= shape[0] <= most:
            raise InvalidInput("frames", shape, f"(1..{most}, {size.height}, {size.width}, 3)")
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
