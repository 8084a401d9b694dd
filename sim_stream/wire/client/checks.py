"""What a client checks before it sends: the server would refuse it, too, but a round trip later.

All raise InvalidInput naming the field. Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from sim_stream.config import (
    Action,
    DecodingConfig,
    SamplingConfig,
    require_finite,
    require_integer,
)
from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import MODES, HelloOk, WireAction, WireDecoding, WireSampling

TEXT_CHARS = 4096
# What a step takes for an action: a pair is (speed_mps, yaw_rate_radps), as policies return them.
ActionLike: TypeAlias = Action | Sequence[float] | npt.NDArray[Any]


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
    return require_integer("seed", seed, 0, 2**64 - 1, "an integer, 0..2**64 - 1")


def wire_lookahead(lookahead: Any) -> Literal[0, 1] | None:
    if lookahead is None:
        return None
    return 1 if require_integer("lookahead", lookahead, 0, 1, "0, 1 or None") else 0


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


def wire_action(action: Any, info: HelloOk, field: str = "action") -> WireAction | None:
    if action is None:
        return None
    if not info.takes_actions:
        raise InvalidInput(field, action, f"None: {info.model_id} takes no actions")
    if isinstance(action, Action):
        return WireAction.of(action)
    pair = isinstance(action, tuple | list) or (isinstance(action, np.ndarray) and action.ndim == 1)
    if not pair or len(action) != 2:
        allowed = "an Action, a pair (speed_mps, yaw_rate_radps), or None"
        raise InvalidInput(field, action, allowed)
    speed_mps, yaw_rate_radps = action
    return WireAction(
        speed_mps=require_finite(f"{field}.speed_mps", speed_mps),
        yaw_rate_radps=require_finite(f"{field}.yaw_rate_radps", yaw_rate_radps),
    )


def wire_actions(
    actions: Sequence[ActionLike | None] | None, frames: int, info: HelloOk
) -> list[WireAction | None] | None:
    if actions is None:
        return None
    if isinstance(actions, str | bytes) or not isinstance(actions, Sequence | np.ndarray):
        raise InvalidInput("actions", actions, f"a list of {frames}, one per context frame")
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
    return WireDecoding(
        strategy=decoding.strategy,  # type: ignore[arg-type]
        window=int(decoding.window),
        k=int(decoding.k),
    )


def wire_sampling(sampling: Any) -> WireSampling | None:
    if sampling is not None and not isinstance(sampling, SamplingConfig):
        raise InvalidInput("sampling", sampling, "a SamplingConfig or None")
    return WireSampling.of(sampling)
