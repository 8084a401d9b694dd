"""The token pipeline as a ``StreamModel``: names of inputs and options to what sessions take.

Nothing of tokens goes beyond here: a server sees a spec, inputs by name and chunks of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.decoding.strategies import DEFAULTS
from sim_stream.errors import InvalidInput
from sim_stream.pipelines.tokens.frame import Frame, Pending
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.session import Prediction, Session
from sim_stream.pipelines.tokens.spec import SPEED, YAW_RATE, spec_of
from sim_stream.spec import Inputs, StreamSpec
from sim_stream.stream_model import APPROXIMATED, INFLATED, Chunk, Image


class TokenModel:
    """A loaded runtime as the server takes it.

    ``lookahead`` and ``decoding``: of sessions that choose none; None is the preset's. Raises
    InvalidInput for what the preset cannot do.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        lookahead: int | None = None,
        decoding: DecodingConfig | None = None,
    ) -> None:
        self.runtime = runtime
        chosen = runtime.check_decoding(decoding)
        first = runtime.preset.session.lookahead if lookahead is None else lookahead
        self.spec = spec_of(
            runtime.preset,
            runtime.expects,
            model_id=runtime.model_id,
            weights_sha256=runtime.weights_sha256,
            decoding=chosen,
            lookahead=first,
        )

    def open_session(self, *, lookahead: int) -> TokenSession:
        return TokenSession(self.runtime.open_session(lookahead=lookahead), self.spec)

    def advance(self) -> None:
        self.runtime.advance()


class TokenSession:
    """A drive, by the names of its spec."""

    def __init__(self, session: Session, spec: StreamSpec) -> None:
        self._session, self._spec = session, spec

    def reset(
        self,
        frames_THWC: Image,
        *,
        seed: int,
        inputs: Inputs,
        prompt_inputs: Sequence[Inputs],
        options: Inputs,
    ) -> Chunk:
        text = inputs.get("text")
        actions = [
            action_of(one, f"prompt_inputs[{index}]") for index, one in enumerate(prompt_inputs)
        ]
        how = {**self._spec.defaults, **options}
        first = self._session.reset(
            frames_THWC,
            seed=seed,
            text=None if text is None else str(text),
            actions=actions or None,
            sampling=SamplingConfig(
                top_k=_whole(how["top_k"]), temperature=_number(how["temperature"])
            ),
            decoding=DecodingConfig(
                strategy=str(how["strategy"]), **{name: _whole(how[name]) for name in DEFAULTS}
            ),
        )
        return chunk_of(first, prompt_psnr_db=self._session.prompt_psnr_db)

    @property
    def takes_deadline(self) -> bool:
        return self._session.takes_deadline

    def begin(self, inputs: Inputs, *, deadline_ms: float | None = None) -> TokenPrediction:
        action = action_of(inputs, "inputs")
        return TokenPrediction(self._session.begin(action, deadline_ms=deadline_ms))

    def prefill_ahead(self) -> None:
        self._session.prefill_ahead()

    def flush(self) -> Chunk | None:
        last = self._session.flush()
        return None if last is None else chunk_of(last)

    def fork(self) -> TokenSession:
        return TokenSession(self._session.fork(), self._spec)

    def reseed(self, seed: int) -> None:
        self._session.reseed(seed)

    def close(self) -> None:
        self._session.close()


@dataclass(frozen=True)
class TokenPrediction:
    prediction: Prediction

    @property
    def done(self) -> bool:
        return self.prediction.done

    def result(self) -> TokenPending:
        return TokenPending(self.prediction.result())


@dataclass(frozen=True)
class TokenPending:
    pending: Pending

    def render(self) -> Chunk:
        return chunk_of(self.pending.render())


def chunk_of(frame: Frame, *, prompt_psnr_db: float | None = None) -> Chunk:
    marks = ((APPROXIMATED, frame.approximated), (INFLATED, frame.inflated))
    return Chunk(
        images=frame.image[None],
        first_frame_id=frame.frame_id,
        lag_frames=frame.lag_frames,
        final=frame.final,
        marks=frozenset(name for name, holds in marks if holds),
        stats={"accepted": frame.accepted} if frame.accepted else {},
        timings_ns=frame.timings_ns,
        prompt_psnr_db=prompt_psnr_db,
    )


def action_of(inputs: Inputs, where: str) -> Action | None:
    """Both numbers, or neither: then the motion is unknown. Raises InvalidInput."""
    speed, yaw_rate = inputs.get(SPEED), inputs.get(YAW_RATE)
    if speed is None and yaw_rate is None:
        return None
    for name, value in ((SPEED, speed), (YAW_RATE, yaw_rate)):
        if value is None:
            raise InvalidInput(f"{where}.{name}", "nothing", f"{SPEED} and {YAW_RATE}, or neither")
    return Action(speed_mps=_number(speed), yaw_rate_radps=_number(yaw_rate))


def _number(value: object) -> float:
    assert isinstance(value, int | float), "the spec's check has passed"
    return float(value)


def _whole(value: object) -> int:
    return int(_number(value))
