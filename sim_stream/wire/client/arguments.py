"""What a client is given, checked before it is sent: the server would refuse it a round trip later.

Values are checked by the server's own spec (``wire.inputs``), everything else here. All raise
InvalidInput naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sim_stream.config import Action, require_integer
from sim_stream.errors import InvalidInput
from sim_stream.spec import AnyField, Inputs, NumberField, StreamSpec, Value, no_frames
from sim_stream.wire.client.link import new_key
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import StartValues, check_start, check_step, pack_start
from sim_stream.wire.messages import MODES, Open

# What a step takes: its inputs by name; an Action, or a dataclass with fields of those names; or
# the spec's numbers in their order, as policies return them: (speed_mps, yaw_rate_radps).
InputsLike: TypeAlias = Mapping[str, Any] | Action | Sequence[float] | npt.NDArray[Any]


def wire_start(
    spec: StreamSpec, frames: Any, inputs: Any, prompt_inputs: Any, options: Any
) -> StartValues:
    """What an open or reset starts from, checked by the spec."""
    array = as_frames(frames, spec)
    start = StartValues(
        frames=array,
        inputs=named("inputs", inputs, spec.session_inputs),
        prompt_inputs=_of_prompt(prompt_inputs, len(array), spec),
        options=named("options", options, spec.options),
    )
    check_start(spec, start)
    return start


def wire_step(spec: StreamSpec, inputs: InputsLike | None) -> Inputs:
    """A step's inputs by name, checked by the spec."""
    values = named("inputs", inputs, spec.step_inputs)
    check_step(spec, values)
    return values


def as_frames(frames: Any, spec: StreamSpec) -> npt.NDArray[np.uint8]:
    """Prompt frames as one array; a list of images is stacked, None is none."""
    if frames is None:
        return no_frames(spec)
    try:
        array: npt.NDArray[np.uint8] = np.asarray(frames)
    except ValueError as error:  # images of different shapes
        raise InvalidInput("frames", error, "images of one shape") from error
    if not array.size and array.shape[:1] == (0,):
        return no_frames(spec)
    return array


def named(where: str, given: Any, fields: Sequence[AnyField]) -> dict[str, Value]:
    """Values by their names; what is None is left out."""
    if given is None:
        return {}
    if is_dataclass(given) and not isinstance(given, type):
        given = asdict(given)
    if isinstance(given, Mapping):
        for name in given:
            if not isinstance(name, str):
                raise InvalidInput(where, name, "names and their values")
        return {name: _plain(value) for name, value in given.items() if value is not None}
    numbers = [field.name for field in fields if isinstance(field, NumberField)]
    flat = isinstance(given, tuple | list) or (isinstance(given, np.ndarray) and given.ndim == 1)
    if not flat or len(given) != len(numbers):
        names = ", ".join(field.name for field in fields) or "nothing: this model takes none"
        or_numbers = f", or the numbers ({', '.join(numbers)})" if numbers else ""
        raise InvalidInput(where, given, f"a mapping of {names}{or_numbers}")
    in_order = dict(zip(numbers, given, strict=True))
    for name, value in in_order.items():
        if value is None:
            raise InvalidInput(f"{where}.{name}", None, "a number; None in place of all is none")
    return {name: _plain(value) for name, value in in_order.items()}


def wire_seed(seed: Any) -> int:
    return require_integer("seed", seed, 0, 2**64 - 1, "an integer, 0..2**64 - 1")


def wire_lookahead(lookahead: Any, spec: StreamSpec) -> int | None:
    if lookahead is None:
        return None
    allowed = f"{' or '.join(map(str, sorted(spec.lookaheads)))}, or None"
    value = require_integer("lookahead", lookahead, 0, max(spec.lookaheads), allowed)
    if value not in spec.lookaheads:
        raise InvalidInput("lookahead", lookahead, allowed)
    return value


def wire_sim_time_us(sim_time_us: Any) -> int | None:
    if sim_time_us is None:
        return None
    allowed = "microseconds as an integer of 64 bits, or None"
    return require_integer("sim_time_us", sim_time_us, -(2**63), 2**63 - 1, allowed)


def wire_deadline_ms(deadline_ms: Any) -> int | None:
    if deadline_ms is None:
        return None
    allowed = "milliseconds, an integer, 0 or more, or None"
    return require_integer("deadline_ms", deadline_ms, 0, 2**63 - 1, allowed)


def wire_mode(mode: Any) -> str:
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidInput("mode", mode, ", ".join(MODES))
    return mode


def wire_record(record: Any) -> bool | None:
    if record is not None and not isinstance(record, bool):
        raise InvalidInput("record", record, "True, False or None")
    return record


def _of_prompt(given: Any, frames: int, spec: StreamSpec) -> list[Inputs]:
    if given is None:
        return []
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Sequence | np.ndarray):
        raise InvalidInput("prompt_inputs", given, f"a list of {frames}, one per prompt frame")
    if len(given) not in (0, frames):
        raise InvalidInput("prompt_inputs", len(given), f"{frames}, one per prompt frame")
    return [
        named(f"prompt_inputs[{index}]", one, spec.step_inputs) for index, one in enumerate(given)
    ]


def _plain(value: Any) -> Value:
    """Arrays of no dimension and numpy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        array: Value = np.ascontiguousarray(value) if value.ndim else value.item()
        return array
    plain: Value = value.item() if isinstance(value, np.generic) else value
    return plain


@dataclass(frozen=True, kw_only=True)
class Start:
    """As ``StreamClient.open`` and ``RemoteSession.reset`` describe it; unchecked."""

    frames: Any = None
    seed: int = 0
    inputs: InputsLike | None = None
    prompt_inputs: Sequence[InputsLike | None] | None = None
    options: Any = None

    def fields(self, spec: StreamSpec) -> tuple[dict[str, Any], Arrays]:
        """The fields of the message, and its arrays. Raises InvalidInput."""
        seed = wire_seed(self.seed)
        start = wire_start(spec, self.frames, self.inputs, self.prompt_inputs, self.options)
        fields, arrays = pack_start(start)
        return {"seed": seed, **fields}, arrays


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A start with what holds for the whole session."""

    start: Start
    lookahead: int | None
    record: bool | None
    mode: str

    def message(self, spec: StreamSpec) -> tuple[Open, Arrays]:
        """The request, with a key of its own, and its arrays. Raises InvalidInput."""
        fields, arrays = self.start.fields(spec)
        return Open(
            **fields,
            lookahead=wire_lookahead(self.lookahead, spec),
            record=wire_record(self.record),
            mode=wire_mode(self.mode),
            idempotency_key=new_key(),
        ), arrays
