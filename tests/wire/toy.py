"""A small, real runtime for the wire's tests: numpy images in place of models.

Fulfils ``sim_stream.wire.engine`` with the semantics of ``sim_stream.runtime``: frame n is a
function of prompt, seed and the actions up to n; with a lookahead the pixels of frame n-1 also
depend on frame n. ``Hooks`` lets a test hold or break the engine at a chosen step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sim_stream.config import (
    POCKET,
    Action,
    DecodingConfig,
    FrameSize,
    Preset,
    SamplingConfig,
    SessionConfig,
)
from sim_stream.errors import InvalidInput
from sim_stream.expects import CameraPose, Expects

SIZE = 32
PRESET = replace(
    POCKET,
    vq=replace(POCKET.vq, frame=FrameSize.square(SIZE)),
    sampling=SamplingConfig(top_k=10, temperature=0.6),  # as in the committed vectors
    session=SessionConfig(context_frames=6, anchor_frames=2),
)
SPEED_REFUSED_MPS = 999.0
EXPECTS = Expects(
    prompt_psnr_min_db=25.0,
    prompt_psnr_own_db=28.0,
    camera=CameraPose(field_of_view_deg=66.0, up_m=1.9, pitch_down_deg=3.5),
    actions={"speed_mps": "end", "yaw_rate_radps": "mean"},
)
OWN_DB, FOREIGN_DB = 31.5, 14.875


def nothing(session: ToySession, step: int) -> None:
    pass


@dataclass
class Hooks:
    """Called before a prediction, before a render (on the decoder thread), after a close.

    ``passes``: how many a step takes.
    """

    predict: Callable[[ToySession, int], None] = nothing
    render: Callable[[ToySession, int], None] = nothing
    close: Callable[[ToySession, int], None] = nothing
    passes: Callable[[ToySession], int] = lambda session: 1


@dataclass(frozen=True, kw_only=True)
class ToyFrame:
    image: np.ndarray
    step: int
    frame_id: int
    lag_frames: int
    final: bool
    approximated: bool
    inflated: bool
    accepted: tuple[int, ...]
    timings_ns: dict[str, int]


def digest(*values: Any) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=8).digest()


def paint(frame: FrameSize, left: bytes, right: bytes | None) -> np.ndarray:
    key = int.from_bytes(digest(left, right), "little")
    return np.random.default_rng(key).integers(0, 256, frame.shape, np.uint8)


@dataclass(frozen=True)
class ToyPending:
    session: ToySession
    step: int
    left: bytes
    right: bytes | None
    frame_id: int
    final: bool

    def render(self) -> ToyFrame:
        self.session.runtime.hooks.render(self.session, self.step)
        return ToyFrame(
            image=paint(self.session.runtime.preset.vq.frame, self.left, self.right),
            step=self.step,
            frame_id=self.frame_id,
            lag_frames=self.step - self.frame_id,
            final=self.final,
            approximated=False,
            inflated=False,
            accepted=(256,),
            timings_ns={"world_model": 2, "video_decode": 3},
        )


@dataclass(frozen=True)
class ToyPrediction:
    pending: ToyPending
    done_at: int

    @property
    def done(self) -> bool:
        return self.pending.session.runtime.passes >= self.done_at

    def result(self) -> ToyPending:
        return self.pending


@dataclass
class ToySession:
    runtime: ToyRuntime
    lookahead: int
    committed_step: int = -1
    states: list[bytes] = field(default_factory=list)
    closed: bool = False
    prompt_psnr_db: float = 0.0

    def reset(
        self,
        frames_THWC: np.ndarray,
        *,
        seed: int,
        text: str | None = None,
        actions: Sequence[Action | None] | None = None,
        sampling: SamplingConfig | None = None,
        decoding: DecodingConfig | None = None,
    ) -> ToyFrame:
        if text is not None and text != self.runtime.preset.prompt:
            raise InvalidInput("text", text, "null")
        prompt = hashlib.blake2b(frames_THWC.tobytes(), digest_size=8).digest()
        preset = self.runtime.preset
        how = (sampling or preset.sampling, decoding or preset.decoding)
        self.states = [digest(prompt, seed, actions, *how)]
        self.committed_step = 0
        self.prompt_psnr_db = OWN_DB if np.ptp(frames_THWC) else FOREIGN_DB  # of one colour
        return ToyPending(self, 0, self.states[0], None, 0, self.lookahead == 0).render()

    @property
    def takes_deadline(self) -> bool:
        return False

    def begin(
        self, action: Action | None = None, *, deadline_ms: float | None = None
    ) -> ToyPrediction:
        done_at = self.runtime.passes + self.runtime.hooks.passes(self)
        return ToyPrediction(self.predict(action, deadline_ms=deadline_ms), done_at)

    def settle(self) -> None:
        self.runtime.settled += 1

    def predict(
        self, action: Action | None = None, *, deadline_ms: float | None = None
    ) -> ToyPending:
        if action is not None and action.speed_mps == SPEED_REFUSED_MPS:
            raise InvalidInput("action.speed_mps", action.speed_mps, "less than 999")
        step = self.committed_step + 1
        self.runtime.hooks.predict(self, step)
        self.states.append(digest(self.states[-1], action))
        self.committed_step = step
        if self.lookahead == 0:
            return ToyPending(self, step, self.states[step], None, step, True)
        return ToyPending(self, step, self.states[step - 1], self.states[step], step - 1, True)

    def step(self, action: Action | None = None, *, deadline_ms: float | None = None) -> ToyFrame:
        return self.predict(action, deadline_ms=deadline_ms).render()

    def flush(self) -> ToyFrame | None:
        if self.lookahead == 0 or self.committed_step == 0:
            return None
        step = self.committed_step
        return ToyPending(self, step, self.states[step], None, step, True).render()

    def fork(self) -> ToySession:
        self.runtime.sessions_open += 1
        return replace(self, states=list(self.states))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.runtime.sessions_open -= 1
            self.runtime.hooks.close(self, self.committed_step)


@dataclass
class ToyRuntime:
    preset: Preset = PRESET
    model_id: str = "toy"
    weights_sha256: str = "0" * 64
    expects: Expects = EXPECTS
    hooks: Hooks = field(default_factory=Hooks)
    sessions_open: int = 0
    settled: int = 0
    passes: int = 0

    def advance(self) -> None:
        self.passes += 1

    def open_session(self, *, lookahead: int | None = None) -> ToySession:
        self.sessions_open += 1
        return ToySession(self, self.preset.session.lookahead if lookahead is None else lookahead)


def prompt_frames(count: int = 2, *, size: int = SIZE, key: int = 0) -> np.ndarray:
    return np.random.default_rng(key).integers(0, 256, (count, size, size, 3), np.uint8)


def drive(steps: int) -> list[Action]:
    return [Action(speed_mps=5.0 + n, yaw_rate_radps=0.1 * n) for n in range(1, steps + 1)]
