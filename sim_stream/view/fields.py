"""Of a model's fields those that a page can offer, and what it cannot do without the others.

Knows specs; no keys, sessions or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sim_stream.errors import InvalidInput
from sim_stream.spec import (
    AnyField,
    ArrayField,
    ChoiceField,
    NumberField,
    StreamSpec,
    TextField,
    check_values,
)

SimpleField: TypeAlias = NumberField | TextField | ChoiceField
SimpleValue: TypeAlias = float | str


def simple(fields: Sequence[AnyField]) -> list[SimpleField]:
    """Those that take a number, a text or a choice."""
    return [field for field in fields if not isinstance(field, ArrayField)]


def obstacle(spec: StreamSpec) -> str:
    """Why no session can be driven from a page, by the field's name; empty where one can."""
    for fields, what in ((spec.session_inputs, "a session"), (spec.step_inputs, "a step")):
        for field in fields:
            if isinstance(field, ArrayField) and field.required:
                return (
                    f"{what} of {spec.model_id} needs the array {field.name} ({field.allowed}), "
                    "which a page cannot give"
                )
    return ""


def beginning(field: SimpleField) -> SimpleValue | None:
    """What it is until somebody sets it; None: nothing is given."""
    if field.default is not None or not field.required:
        return field.default
    match field:
        case NumberField(low=low, high=high):
            return min(max(0.0, low), high) if not field.open_low or low < 0 else high
        case ChoiceField(choices=choices):
            return choices[0]
    return ""


def check_setting(
    where: str, fields: Sequence[SimpleField], name: str, value: SimpleValue | None
) -> None:
    """Raises InvalidInput."""
    names = [field.name for field in fields]
    if name not in names:
        raise InvalidInput(f"{where}.{name}", value, ", ".join(names) or "nothing that can be set")
    check_values(where, [field for field in fields if field.name == name], {name: value})
