"""The token pipeline's spec: what a preset with its weights is and takes. Needs no torch."""

from __future__ import annotations

from sim_stream.config import DecodingConfig, Preset
from sim_stream.decoding.kind import StrategyKind
from sim_stream.decoding.strategies import STRATEGIES
from sim_stream.expects import Expects
from sim_stream.spec import ChoiceField, Fields, NumberField, StreamSpec

SPEED, YAW_RATE = "speed_mps", "yaw_rate_radps"


def spec_of(
    preset: Preset,
    expects: Expects,
    *,
    model_id: str,
    weights_sha256: str,
    decoding: DecodingConfig,
    lookahead: int,
) -> StreamSpec:
    """What a preset with these weights is and takes."""
    others = [one for one in (0, 1) if one != lookahead]
    texts = (ChoiceField(name="text", choices=(preset.prompt,), default=preset.prompt),)
    return StreamSpec(
        model_id=model_id,
        weights_sha256=weights_sha256,
        fps_num=preset.fps,
        frame_shape=preset.vq.frame.shape,  # type: ignore[arg-type]
        # The context must have room for the frame that is predicted next.
        prompt_frames=(1, preset.session.context_frames - 1),
        lookaheads=(lookahead, *others),
        session_inputs=texts if preset.prompt else (),
        step_inputs=_action_fields(preset, expects) if preset.actions_per_frame else (),
        options=_options(preset, decoding),
        camera=expects.camera,
        prompt_psnr_min_db=expects.prompt_psnr_min_db,
        prompt_psnr_own_db=expects.prompt_psnr_own_db,
    )


def _action_fields(preset: Preset, expects: Expects) -> Fields:
    bins = preset.action_bins
    return (
        NumberField(
            name=SPEED,
            unit="m/s",
            low=0.0,
            high=bins.speed_max_mps,
            clamped=True,
            levels=bins.speed_bins,
            taken=expects.actions.get(SPEED, ""),  # type: ignore[arg-type]
            doc="speed of the car",
        ),
        NumberField(
            name=YAW_RATE,
            unit="rad/s",
            low=-bins.yaw_max_radps,
            high=bins.yaw_max_radps,
            clamped=True,
            levels=bins.yaw_bins - bins.straight_bins + 1,  # those around straight on are one
            taken=expects.actions.get(YAW_RATE, ""),  # type: ignore[arg-type]
            doc="yaw rate of the car, positive to the left",
        ),
    )


def _options(preset: Preset, decoding: DecodingConfig) -> Fields:
    vocabulary, sampling = preset.vq.num_vq_embeddings, preset.sampling
    exact = " and ".join(kind.name for kind in STRATEGIES.values() if kind.exact)
    strategy = ChoiceField(
        name="strategy",
        choices=tuple(STRATEGIES),
        default=decoding.strategy,
        doc=f"how a frame's tokens are found; {exact} give equal frames",
    )
    counts = {kind.option.name: kind for kind in STRATEGIES.values() if kind.option}
    return (
        strategy,
        *(_count(kind, preset, decoding) for kind in counts.values()),
        NumberField(
            name="top_k",
            low=1,
            high=vocabulary,
            integer=True,
            default=min(sampling.top_k, vocabulary),
            doc="a token is one of so many most probable ones",
        ),
        NumberField(
            name="temperature",
            low=0.0,
            high=10.0,
            open_low=True,
            default=sampling.temperature,
            doc="of the sampling",
        ),
    )


def _count(kind: StrategyKind, preset: Preset, decoding: DecodingConfig) -> NumberField:
    """A strategy's own option."""
    assert kind.option is not None
    name, most = kind.option.name, kind.option.most(preset.vq.grid)
    return NumberField(
        name=name,
        low=1,
        high=most,
        integer=True,
        default=min(getattr(decoding, name), most),
        doc=f"tokens, of {kind.name}: {kind.about}",
    )
