"""Inputs on their way: numbers and words in a message's maps, arrays as parts beside it.

Both directions, for clients, the server and what reads recordings. Everything is checked by the
model's spec (``sim_stream.spec``); all raise InvalidInput that names ``inputs.NAME``,
``options.NAME`` or ``prompt_inputs[i].NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sim_stream.errors import InvalidInput
from sim_stream.spec import (
    AnyField,
    ArrayField,
    Inputs,
    StreamSpec,
    Value,
    arrays_of,
    check_frames,
    check_values,
    no_frames,
)
from sim_stream.stream_model import Image
from sim_stream.wire.framing import AnyArray, Arrays
from sim_stream.wire.messages import Open, Reset, Step

FRAMES, INPUTS, PROMPT = "frames", "inputs.", "prompt."

Scalars = dict[str, float | str]


@dataclass(frozen=True, kw_only=True)
class StartValues:
    """All that a session starts from but its seed, checked."""

    frames: Image
    inputs: Inputs = field(default_factory=dict)
    prompt_inputs: Sequence[Inputs] = ()
    options: Inputs = field(default_factory=dict)


def check_start(spec: StreamSpec, start: StartValues) -> None:
    check_frames(spec, start.frames)
    check_values("inputs", spec.session_inputs, start.inputs)
    check_values("options", spec.options, start.options)
    if start.prompt_inputs and len(start.prompt_inputs) != len(start.frames):
        given, allowed = len(start.prompt_inputs), f"none, or {len(start.frames)}, one per frame"
        raise InvalidInput("prompt_inputs", given, allowed)
    for index, inputs in enumerate(start.prompt_inputs):
        check_values(f"prompt_inputs[{index}]", _optional(spec.step_inputs, inputs), inputs)
    for one in arrays_of(spec.step_inputs):
        given_arrays = sum(inputs.get(one.name) is not None for inputs in start.prompt_inputs)
        if given_arrays not in (0, len(start.frames)):
            raise InvalidInput(
                f"prompt_inputs.{one.name}",
                f"{given_arrays} of them",
                f"none, or {len(start.frames)}, one per frame",
            )


def check_step(spec: StreamSpec, inputs: Inputs) -> None:
    check_values("inputs", spec.step_inputs, inputs)


# Out of Python's values, into a message.


def pack_start(start: StartValues) -> tuple[dict[str, object], Arrays]:
    """The fields of an open or reset, and its arrays, of what ``check_start`` has passed."""
    arrays: dict[str, AnyArray] = {}
    if len(start.frames):
        arrays[FRAMES] = start.frames
    arrays |= _arrays(INPUTS, start.inputs)
    names = sorted({name for inputs in start.prompt_inputs for name in _arrays("", inputs)})
    for name in names:
        stacked: AnyArray = np.stack([_array(inputs[name]) for inputs in start.prompt_inputs])  # type: ignore[assignment]
        arrays[PROMPT + name] = stacked
    fields: dict[str, object] = {
        "inputs": _scalars(start.inputs),
        "prompt_inputs": [_scalars(inputs) for inputs in start.prompt_inputs],
        "options": _scalars(start.options),
    }
    return fields, arrays


def pack_step(inputs: Inputs) -> tuple[Scalars, Arrays]:
    """The ``inputs`` of a step, and its arrays, of what ``check_step`` has passed."""
    return _scalars(inputs), _arrays(INPUTS, inputs)


# Out of a message.


def read_start(spec: StreamSpec, request: Open | Reset, arrays: Arrays) -> StartValues:
    """What an open or reset says, checked."""
    known = [FRAMES]
    known += [INPUTS + one.name for one in arrays_of(spec.session_inputs)]
    known += [PROMPT + one.name for one in arrays_of(spec.step_inputs)]
    _require_known(arrays, known)
    frames = arrays.get(FRAMES, no_frames(spec))
    check_frames(spec, frames)
    assert frames.dtype == np.uint8
    prompt_inputs: list[dict[str, Value]] = [dict(one) for one in request.prompt_inputs]
    stacked = {name[len(PROMPT) :]: a for name, a in arrays.items() if name.startswith(PROMPT)}
    if stacked and not prompt_inputs:
        prompt_inputs = [{} for _ in frames]
    for name, array in stacked.items():
        if array.ndim < 1 or len(array) != len(prompt_inputs):
            allowed = f"[{len(prompt_inputs)}, ...], one per prompt frame"
            raise InvalidInput(PROMPT + name, list(array.shape), allowed)
        for index, inputs in enumerate(prompt_inputs):
            inputs[name] = array[index : index + 1].reshape(array.shape[1:])
    start = StartValues(
        frames=frames.astype(np.uint8, copy=False),
        inputs=_together(request.inputs, arrays),
        prompt_inputs=prompt_inputs,
        options=dict(request.options),
    )
    check_start(spec, start)
    return start


def read_step(spec: StreamSpec, request: Step, arrays: Arrays) -> Inputs:
    """What a step says, checked."""
    _require_known(arrays, [INPUTS + one.name for one in arrays_of(spec.step_inputs)])
    inputs = _together(request.inputs, arrays)
    check_step(spec, inputs)
    return inputs


def require_no_arrays(arrays: Arrays) -> None:
    _require_known(arrays, [])


def _require_known(arrays: Arrays, known: Sequence[str]) -> None:
    unknown = sorted(set(arrays) - set(known))
    if unknown:
        allowed = ", ".join(known) or "no arrays with this message"
        raise InvalidInput("arrays", ", ".join(unknown), allowed)


def _together(scalars: Mapping[str, float | str], arrays: Arrays) -> Inputs:
    values: dict[str, Value] = dict(scalars)
    for name, array in arrays.items():
        if name.startswith(INPUTS):
            values[name[len(INPUTS) :]] = array
    return values


def _scalars(inputs: Inputs) -> Scalars:
    return {
        name: value if isinstance(value, str) else float(value)
        for name, value in inputs.items()
        if value is not None and not isinstance(value, np.ndarray)
    }


def _arrays(prefix: str, inputs: Inputs) -> dict[str, AnyArray]:
    return {prefix + name: value for name, value in inputs.items() if isinstance(value, np.ndarray)}


def _array(value: Value) -> AnyArray:
    assert isinstance(value, np.ndarray)
    return value


def _optional(fields: Sequence[AnyField], inputs: Inputs) -> list[AnyField]:
    """Of a prompt frame an array may be left out, for all of them, though a step needs it."""
    return [one for one in fields if not isinstance(one, ArrayField) or one.name in inputs]
