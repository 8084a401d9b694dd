"""What every run of a profile drives: how its session starts, and what each step takes.

A preset is driven as `sim-stream demo` drives it. Of a user's model only the spec is known, so the
values are made from that: numbers in the middle of their range, the first of some choices, arrays
of zeros, grey frames. Knows specs and prompts; no sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim_stream.demo import action_script
from sim_stream.prompts import Prompt
from sim_stream.spec import AnyField, ChoiceField, NumberField, StreamSpec, TextField, Value
from sim_stream.wire.client.arguments import InputsLike

GREY = 128


@dataclass(frozen=True, kw_only=True)
class Course:
    """``start``: what ``StreamClient.open`` takes; ``steps``: the inputs of each step."""

    start: dict[str, Any]
    steps: Sequence[InputsLike | None]


def of_prompt(spec: StreamSpec, prompt: Prompt, steps: int) -> Course:
    """From these frames, under the demo's script."""
    start = {"frames": prompt.frames_THWC}
    if not spec.step_inputs:
        return Course(start=start, steps=[None] * steps)
    return Course(
        start=start | {"prompt_inputs": prompt.actions},
        steps=action_script(steps, prompt.speed_mps),
    )


def of_spec(spec: StreamSpec, steps: int) -> Course:
    """From as few frames as it takes; every step takes the same."""
    least, _ = spec.prompt_frames
    start = {
        "frames": np.full((least, *spec.frame_shape), GREY, np.uint8),
        "inputs": made(spec.session_inputs),
        "options": made([one for one in spec.options if one.required]),
    }
    return Course(start=start, steps=[made(spec.step_inputs)] * steps)


def made(fields: Sequence[AnyField]) -> dict[str, Value]:
    """A value for each field."""
    return {field.name: _value(field) for field in fields}


def _value(field: AnyField) -> Value:
    match field:
        case NumberField():
            middle = field.low + (field.high - field.low) / 2
            return float(round(middle)) if field.integer else middle
        case TextField():
            return field.default or ""
        case ChoiceField():
            return field.choices[0]
    return np.zeros(field.shape, np.dtype(field.dtype))
