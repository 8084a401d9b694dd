"""What a session starts from, as its user says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim_stream.spec import StreamSpec
from sim_stream.wire.client import checks
from sim_stream.wire.client.checks import InputsLike
from sim_stream.wire.client.link import new_key
from sim_stream.wire.framing import Arrays
from sim_stream.wire.inputs import pack_start
from sim_stream.wire.messages import Open


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
        seed = checks.wire_seed(self.seed)
        start = checks.wire_start(spec, self.frames, self.inputs, self.prompt_inputs, self.options)
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
            lookahead=checks.wire_lookahead(self.lookahead, spec),
            record=checks.wire_record(self.record),
            mode=checks.wire_mode(self.mode),
            idempotency_key=new_key(),
        ), arrays
