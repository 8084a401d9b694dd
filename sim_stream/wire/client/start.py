"""What a session starts from, as its user says it.

Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sim_stream.config import DecodingConfig, SamplingConfig
from sim_stream.wire.client import checks
from sim_stream.wire.client.checks import ActionLike
from sim_stream.wire.client.link import new_key
from sim_stream.wire.engine import Image
from sim_stream.wire.messages import HelloOk, Open


@dataclass(frozen=True, kw_only=True)
class Start:
    """As ``StreamClient.open`` and ``RemoteSession.reset`` describe it; unchecked."""

    frames: Any
    seed: int = 0
    actions: Sequence[ActionLike | None] | None = None
    text: str | None = None
    sampling: SamplingConfig | None = None
    decoding: DecodingConfig | None = None

    def fields(self, info: HelloOk) -> tuple[Image, dict[str, Any]]:
        """The frames, and the fields of the message. Raises InvalidInput."""
        array = checks.wire_frames(self.frames, info)
        return array, {
            "seed": checks.wire_seed(self.seed),
            "text": checks.wire_text(self.text),
            "sampling": checks.wire_sampling(self.sampling),
            "decoding": checks.wire_decoding(self.decoding),
            "actions": checks.wire_actions(self.actions, len(array), info),
        }


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A start with what holds for the whole session."""

    start: Start
    lookahead: int | None
    record: bool | None
    mode: str

    def message(self, info: HelloOk) -> tuple[Image, Open]:
        """The frames and the request, with a key of its own. Raises InvalidInput."""
        array, fields = self.start.fields(info)
        return array, Open(
            **fields,
            lookahead=checks.wire_lookahead(self.lookahead),
            record=checks.wire_record(self.record),
            mode=checks.wire_mode(self.mode),
            open_key=new_key(),
        )
