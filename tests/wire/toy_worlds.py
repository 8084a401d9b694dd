"""Two worlds that are no token models: one takes a semantic map with every step, one gives clips.

Everything of theirs is here; server, clients, recorder, page and profiler know only their specs.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sim_stream.spec import ArrayField, ChoiceField, Inputs, NumberField, StreamSpec
from sim_stream.stream_model import Chunk

CLASSES = 16
MAP = StreamSpec(
    model_id="toy-map",
    weights_sha256="1" * 64,
    fps_num=10,
    frame_shape=(24, 32, 3),
    prompt_frames=(1, 2),
    step_inputs=(
        ArrayField(
            name="semantic",
            dtype="|u1",
            shape=(24, 32),
            values=CLASSES,
            required=True,
            doc="classes",
        ),
        NumberField(name="speed_mps", unit="m/s", low=0.0, high=40.0, clamped=True),
    ),
)
CLIP = StreamSpec(
    model_id="toy-clip",
    weights_sha256="2" * 64,
    fps_num=10,
    frame_shape=(16, 24, 3),
    prompt_frames=(0, 0),
    frames_per_step=5,
    session_inputs=(ChoiceField(name="weather", choices=("clear", "rain"), default="clear"),),
    options=(NumberField(name="temperature", low=0.0, high=2.0, open_low=True, default=1.0),),
)


def digest(*values: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little")


def plain(inputs: Inputs) -> list[tuple[str, object]]:
    return sorted(
        (name, value.tobytes() if isinstance(value, np.ndarray) else value)
        for name, value in inputs.items()
    )


@dataclass
class Step:
    """Prediction and pending in one: ``passes`` left, then pixels."""

    session: ToyWorldSession
    state: int
    semantic: np.ndarray | None
    first_frame_id: int
    passes: int

    @property
    def done(self) -> bool:
        return self.passes == 0

    def result(self) -> Step:
        self.session.state = self.state
        self.session.frames += self.session.world.spec.frames_per_step
        return self

    def render(self) -> Chunk:
        spec = self.session.world.spec
        shape = (spec.frames_per_step, *spec.frame_shape)
        images = np.random.default_rng(self.state).integers(0, 256, shape, np.uint8)
        if self.semantic is not None:  # what is there shows
            images[..., 0] = self.semantic * (256 // CLASSES)
        return Chunk(
            images=images, first_frame_id=self.first_frame_id, stats={"passes": [3]}, timings_ns={}
        )


@dataclass
class ToyWorldSession:
    world: ToyWorld
    state: int = 0
    frames: int = 0
    seed: int = 0

    def reset(
        self,
        frames_THWC: np.ndarray,
        *,
        seed: int,
        inputs: Inputs,
        prompt_inputs: Sequence[Inputs],
        options: Inputs,
    ) -> Chunk | None:
        how = plain({**self.world.spec.defaults, **options})
        led_to = [plain(one) for one in prompt_inputs]
        self.state = digest(frames_THWC.tobytes(), seed, plain(inputs), led_to, how)
        self.frames, self.seed = 0, 0
        if not len(frames_THWC):
            return None
        return Chunk(images=frames_THWC[-1:].copy(), first_frame_id=0)

    @property
    def takes_deadline(self) -> bool:
        return False

    def begin(self, inputs: Inputs, *, deadline_ms: float | None = None) -> Step:
        semantic = inputs.get("semantic")
        assert semantic is None or isinstance(semantic, np.ndarray)
        state = digest(self.state, self.seed, plain(inputs))
        step = Step(self, state, semantic, self.frames + 1, passes=3)
        self.world.active.append(step)
        return step

    def prefill_ahead(self) -> None: ...

    def flush(self) -> Chunk | None:
        return None

    def fork(self) -> ToyWorldSession:
        return copy.copy(self)

    def reseed(self, seed: int) -> None:
        self.seed = seed

    def close(self) -> None: ...


@dataclass
class ToyWorld:
    spec: StreamSpec
    active: list[Step] = field(default_factory=list)

    def open_session(self, *, lookahead: int) -> ToyWorldSession:
        return ToyWorldSession(self)

    def advance(self) -> None:
        for step in self.active:
            step.passes -= 1
        self.active = [step for step in self.active if not step.done]


def map_world() -> ToyWorld:
    return ToyWorld(MAP)


def clip_world() -> ToyWorld:
    return ToyWorld(CLIP)


def semantic(key: int) -> np.ndarray:
    return np.random.default_rng(key).integers(0, CLASSES, (24, 32), np.uint8)
