"""What a client checks before it sends: the server would refuse it, too, but a round trip later.

All raise InvalidInput naming the field. Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import convert

from sim_stream.config import Action, DecodingConfig, SamplingConfig
from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import MODES, HelloOk, WireAction, WireDecoding, WireSampling

TEXT_CHARS = 4096


def wire_frames(frames: Any, info: HelloOk) -> npt.NDArray[np.uint8]:
    """Context frames as one uint8 array [T, H, W, 3]; a list of images is stacked."""
    try:
        array = np.asarray(frames)
    except ValueError as error:  # images of different shapes
        raise InvalidInput("frames", error, "images of one shape") from error
    if array.dtype != np.uint8:
        raise InvalidInput("frames.dtype", array.dtype, "uint8")
    if array.ndim != 4 or array.shape[1:] != info.frame_shape:
        height, width, channels = info.frame_shape
        raise InvalidInput("frames.shape", array.shape, f"[T, {height}, {width}, {channels}]")
    if not info.context_min <= len(array) <= info.context_max:
        raise InvalidInput("frames", len(array), f"{info.context_min}..{info.context_max} frames")
    return array


def wire_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise InvalidInput("seed", seed, "an integer, 0..2**64 - 1")
    return int(seed)


def wire_lookahead(lookahead: Any) -> Literal[0, 1] | None:
    if lookahead is None:
        return None
    if isinstance(lookahead, bool) or lookahead not in (0, 1):
        raise InvalidInput("lookahead", lookahead, "0, 1 or None")
    return 1 if lookahead else 0


def wire_mode(mode: Any) -> str:
    if mode not in MODES:
        raise InvalidInput("mode", mode, ", ".join(MODES))
    return str(mode)


def wire_record(record: Any) -> bool | None:
    if record is not None and not isinstance(record, bool):
        raise InvalidInput("record", record, "True, False or None")
    return record


def wire_action(action: Any, info: HelloOk, field: str = "action") -> WireAction | None:
    if action is None:
        return None
    if not isinstance(action, Action):
        raise InvalidInput(field, action, "an Action or None")
    if not info.takes_actions:
        raise InvalidInput(field, action, f"None: {info.model_id} takes no actions")
    return WireAction.of(action)


def wire_actions(
    actions: Sequence[Action | None] | None, frames: int, info: HelloOk
) -> list[WireAction | None] | None:
    if actions is None:
        return None
    if len(actions) != frames:
        raise InvalidInput("actions", len(actions), f"{frames}, one per context frame")
    return [wire_action(action, info, f"actions[{i}]") for i, action in enumerate(actions)]


def wire_text(text: Any) -> str | None:
    if text is not None and not isinstance(text, str):
        raise InvalidInput("text", type(text).__name__, "a str or None")
    if text is not None and len(text) > TEXT_CHARS:
        raise InvalidInput("text", f"{len(text)} characters", f"{TEXT_CHARS} at most")
    return text


def wire_decoding(decoding: Any) -> WireDecoding | None:
    if decoding is None:
        return None
    if not isinstance(decoding, DecodingConfig):
        raise InvalidInput("decoding", decoding, "a DecodingConfig or None")
    return convert(decoding, WireDecoding, from_attributes=True)


def wire_sampling(sampling: Any) -> WireSampling | None:
    if sampling is not None and not isinstance(sampling, SamplingConfig):
        raise InvalidInput("sampling", sampling, "a SamplingConfig or None")
    return WireSampling.of(sampling)
