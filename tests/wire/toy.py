"""A small, real model for the wire's tests: numpy images in place of networks.

Fulfils ``sim_stream.stream_model`` with the semantics of the token pipeline: frame n is a function
of prompt, seed and the inputs up to n; with a lookahead the pixels of frame n-1 also depend on
frame n. ``Hooks`` lets a test hold or break the engine at a chosen step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from sim_stream.config import POCKET, Action, FrameSize, Preset, SamplingConfig, SessionConfig
from sim_stream.errors import InvalidInput
from sim_stream.expects import CameraPose, Expects
from sim_stream.pipelines.tokens.spec import spec_of
from sim_stream.spec import NO_INPUTS, Inputs, StreamSpec
from sim_stream.stream_model import Chunk

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


def toy_spec(preset: Preset = PRESET, expects: Expects = EXPECTS, **changes: Any) -> StreamSpec:
    """What the token pipeline says of a preset; ``changes`` to the spec's fields."""
    spec = spec_of(
        preset,
        expects,
        model_id="toy",
        weights_sha256="0" * 64,
        decoding=preset.decoding,
        lookahead=preset.session.lookahead,
    )
    return msgspec.structs.replace(spec, **changes)


SPEC = toy_spec()


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


def plain(inputs: Inputs) -> list[tuple[str, object]]:
    """In an order of their own; numbers as they come over the wire."""

    def one(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tobytes()
        return value if isinstance(value, str) else float(value)

    return sorted((name, one(value)) for name, value in inputs.items())


def digest(*values: Any) -> bytes:
    return hashlib.blake2b(repr(values).encode(), digest_size=8).digest()


def paint(shape: tuple[int, ...], left: bytes, right: bytes | None) -> np.ndarray:
    key = int.from_bytes(digest(left, right), "little")
    return np.random.default_rng(key).integers(0, 256, shape, np.uint8)


@dataclass(frozen=True)
class ToyPending:
    session: ToySession
    step: int
    left: bytes
    right: bytes | None
    frame_id: int
    final: bool
    prompt_psnr_db: float | None = None

    def render(self) -> Chunk:
        self.session.model.hooks.render(self.session, self.step)
        return Chunk(
            images=paint(self.session.model.spec.frame_shape, self.left, self.right)[None],
            first_frame_id=self.frame_id,
            lag_frames=self.step - self.frame_id,
            final=self.final,
            stats={"accepted": (256,)},
            timings_ns={"world_model": 2, "video_decode": 3},
            prompt_psnr_db=self.prompt_psnr_db,
        )


@dataclass(frozen=True)
class ToyPrediction:
    pending: ToyPending
    done_at: int

    @property
    def done(self) -> bool:
        return self.pending.session.model.passes >= self.done_at

    def result(self) -> ToyPending:
        return self.pending


@dataclass
class ToySession:
    model: ToyModel
    lookahead: int
    committed_step: int = -1
    states: list[bytes] = field(default_factory=list)
    closed: bool = False
    seed: int | None = None  # of a fork that has one of its own

    def reset(
        self,
        frames_THWC: np.ndarray,
        *,
        seed: int,
        inputs: Inputs = NO_INPUTS,
        prompt_inputs: Sequence[Inputs] = (),
        options: Inputs = NO_INPUTS,
    ) -> Chunk | None:
        prompt = hashlib.blake2b(frames_THWC.tobytes(), digest_size=8).digest()
        how = plain({**self.model.spec.defaults, **options})
        led_to = [plain(one) for one in prompt_inputs]
        self.states, self.seed = [digest(prompt, seed, led_to, how)], None
        self.committed_step = 0
        if not len(frames_THWC):
            return None
        psnr_db = OWN_DB if np.ptp(frames_THWC) else FOREIGN_DB  # of one colour
        final = self.lookahead == 0
        return ToyPending(self, 0, self.states[0], None, 0, final, psnr_db).render()

    @property
    def takes_deadline(self) -> bool:
        return False

    def begin(self, inputs: Inputs, *, deadline_ms: float | None = None) -> ToyPrediction:
        done_at = self.model.passes + self.model.hooks.passes(self)
        return ToyPrediction(self.predict(inputs, deadline_ms=deadline_ms), done_at)

    def prefill_ahead(self) -> None:
        self.model.prefilled += 1

    def predict(
        self, inputs: Inputs | Action | None = None, *, deadline_ms: float | None = None
    ) -> ToyPending:
        values = named(inputs)
        if values.get("speed_mps") == SPEED_REFUSED_MPS:
            raise InvalidInput("inputs.speed_mps", SPEED_REFUSED_MPS, "less than 999")
        step = self.committed_step + 1
        self.model.hooks.predict(self, step)
        own = () if self.seed is None else (self.seed,)
        self.states.append(digest(self.states[-1], plain(values), *own))
        self.committed_step = step
        if self.lookahead == 0:
            return ToyPending(self, step, self.states[step], None, step, True)
        return ToyPending(self, step, self.states[step - 1], self.states[step], step - 1, True)

    def step(
        self, inputs: Inputs | Action | None = None, *, deadline_ms: float | None = None
    ) -> ToyFrame:
        return ToyFrame(self.predict(inputs, deadline_ms=deadline_ms).render())

    def flush(self) -> Chunk | None:
        if self.lookahead == 0 or self.committed_step == 0:
            return None
        step = self.committed_step
        return ToyPending(self, step, self.states[step], None, step, True).render()

    def fork(self) -> ToySession:
        self.model.sessions_open += 1
        return replace(self, states=list(self.states))

    def reseed(self, seed: int) -> None:
        self.seed = seed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.model.sessions_open -= 1
            self.model.hooks.close(self, self.committed_step)


@dataclass(frozen=True)
class ToyFrame:
    """A chunk of one frame, for tests that compare pixels."""

    chunk: Chunk

    @property
    def image(self) -> np.ndarray:
        return self.chunk.images[-1]

    @property
    def frame_id(self) -> int:
        return self.chunk.first_frame_id


@dataclass
class ToyModel:
    spec: StreamSpec = SPEC
    hooks: Hooks = field(default_factory=Hooks)
    sessions_open: int = 0
    prefilled: int = 0
    passes: int = 0

    def advance(self) -> None:
        self.passes += 1

    def open_session(self, *, lookahead: int | None = None) -> ToySession:
        self.sessions_open += 1
        return ToySession(self, self.spec.lookaheads[0] if lookahead is None else lookahead)


def named(inputs: Inputs | Action | None) -> dict[str, Any]:
    if inputs is None:
        return {}
    if isinstance(inputs, Action):
        return {"speed_mps": inputs.speed_mps, "yaw_rate_radps": inputs.yaw_rate_radps}
    return dict(inputs)


def prompt_frames(count: int = 2, *, size: int = SIZE, key: int = 0) -> np.ndarray:
    return np.random.default_rng(key).integers(0, 256, (count, size, size, 3), np.uint8)


def drive(steps: int) -> list[Action]:
    return [Action(speed_mps=5.0 + n, yaw_rate_radps=0.1 * n) for n in range(1, steps + 1)]
