"""What the next step is sent with: the motion that the keys make, and what was set by hand.

Knows fields and keys; no sessions and no clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim_stream.prompts import Prompt
from sim_stream.spec import AnyField, NumberField, Value
from sim_stream.view.controls import NO_KEYS, Controls, HeldKeys
from sim_stream.view.fields import SimpleValue, beginning, check_setting, simple

KEYED = ("speed_mps", "yaw_rate_radps")


class StepInputs:
    """``keys`` None: the model takes no motion. ``set``: by name, of all other fields."""

    def __init__(self, fields: Sequence[AnyField], *, speed_mps: float) -> None:
        self._keyed = keyed(fields)
        self.fields = [field for field in simple(fields) if field not in self._keyed]
        self.keys = Controls.within(self._keyed, speed_mps=speed_mps) if self._keyed else None
        self.set: dict[str, SimpleValue] = {}
        for field in self.fields:
            value = beginning(field)
            if value is not None:
                self.set[field.name] = value

    def put(self, name: str, value: SimpleValue | None) -> None:
        """From the next step on; None: nothing is given. Raises InvalidInput."""
        check_setting("inputs", self.fields, name, value)
        if value is None:
            self.set.pop(name, None)
        else:
            self.set[name] = value

    def hold(self, held: HeldKeys) -> None:
        if self.keys is not None:
            self.keys.hold(held)

    def let_go(self) -> None:
        """Of all keys."""
        if self.keys is not None:
            self.keys.held = NO_KEYS

    def copy(self) -> StepInputs:
        """For a fork: the same motion and values, no keys."""
        twin = object.__new__(StepInputs)
        twin.__dict__.update(self.__dict__)
        twin.set = dict(self.set)
        twin.keys = None if self.keys is None else self.keys.copy()
        return twin

    def next_step(self, period_s: float) -> dict[str, SimpleValue]:
        """Of the step that covers the next ``period_s``."""
        values = dict(self.set)
        if self.keys is not None:
            action = self.keys.next_action(period_s)
            for field in self._keyed:
                values[field.name] = getattr(action, field.name)
        return values


def keyed(fields: Sequence[AnyField]) -> list[NumberField]:
    """Those that the driving keys steer."""
    return [
        field
        for field in fields
        if isinstance(field, NumberField) and field.name in KEYED and not field.integer
    ]


def of_prompt(fields: Sequence[AnyField], prompt: Prompt) -> list[dict[str, Value]] | None:
    """What led to the prompt's frames, as far as the model takes it; None: not known."""
    names = [field.name for field in keyed(fields)]
    required = [field.name for field in simple(fields) if field.required]
    if prompt.actions is None or not names or not set(required) <= set(names):
        return None
    return [{name: getattr(action, name) for name in names} for action in prompt.actions]
