"""What a profile drives: values made from a spec are values that the spec takes."""

from __future__ import annotations

import numpy as np
import pytest

from sim_stream.bench.course import made, of_prompt, of_spec
from sim_stream.config import Action
from sim_stream.prompts import Prompt
from sim_stream.spec import ChoiceField, NumberField, StreamSpec, TextField, check_values
from sim_stream.wire.client.arguments import wire_start, wire_step
from tests.wire.toy import PRESET, SPEC, prompt_frames, toy_spec
from tests.wire.toy_worlds import CLIP, MAP


@pytest.mark.parametrize("spec", [SPEC, MAP, CLIP], ids=lambda spec: spec.model_id)
def test_a_spec_takes_what_is_made_of_it(spec: StreamSpec) -> None:
    course = of_spec(spec, 3)
    assert len(course.steps) == 3
    for inputs in course.steps:
        assert set(wire_step(spec, inputs)) == {field.name for field in spec.step_inputs}
    start = wire_start(spec, **{"prompt_inputs": None} | course.start)
    assert len(start.frames) == spec.prompt_frames[0]
    assert set(start.inputs) == {field.name for field in spec.session_inputs}


def test_numbers_are_in_the_middle_choices_the_first_and_maps_zeros() -> None:
    fields = (
        NumberField(name="a", low=-1.0, high=3.0),
        NumberField(name="b", low=0.0, high=5.0, integer=True),
        TextField(name="c"),
        TextField(name="d", default="drive"),
        ChoiceField(name="e", choices=("left", "right"), default="right"),
    )
    assert made(fields) == {"a": 1.0, "b": 2.0, "c": "", "d": "drive", "e": "left"}
    check_values("inputs", fields, made(fields))
    assert not np.any(made(MAP.step_inputs)["semantic"])


def test_of_the_options_only_those_that_must_be_said() -> None:
    must = ChoiceField(name="mode", choices=("a", "b"), required=True)
    spec = toy_spec(options=(*SPEC.options, must))
    assert of_spec(spec, 1).start["options"] == {"mode": "a"}


def test_a_preset_is_driven_from_its_prompt_by_the_demos_script() -> None:
    actions = [Action(speed_mps=8.0, yaw_rate_radps=0.0)] * 2
    prompt = Prompt(frames_THWC=prompt_frames(), actions=actions, speed_mps=8.0)
    course = of_prompt(SPEC, prompt, 4)
    assert course.start["prompt_inputs"] == actions
    assert len(course.steps) == 4 and isinstance(course.steps[0], Action)
    blind = toy_spec(PRESET, step_inputs=())
    assert of_prompt(blind, prompt, 2).steps == [None, None]
