"""What a viewer is told first: who it is and what the server runs. Knows no sessions."""

from __future__ import annotations

from collections.abc import Iterable

from sim_stream.view.fields import obstacle, simple
from sim_stream.view.messages import Welcome
from sim_stream.view.step_inputs import keyed
from sim_stream.wire.messages import HelloOk


def welcome(
    viewer: int, endpoint: str, info: HelloOk, prompts: Iterable[str], first_seed: int
) -> Welcome:
    spec = info.spec
    return Welcome(
        viewer=viewer,
        endpoint=endpoint,
        model_id=spec.model_id,
        weights_sha256=spec.weights_sha256,
        fps=spec.fps,
        frame_shape=spec.frame_shape,
        frames_per_step=spec.frames_per_step,
        step_inputs=simple(spec.step_inputs),
        keyed=[field.name for field in keyed(spec.step_inputs)],
        session_inputs=simple(spec.session_inputs),
        options=simple(spec.options),
        max_sessions=info.limits.max_sessions,
        first_seed=first_seed,
        prompts=list(prompts),
        obstacle=obstacle(spec),
    )
