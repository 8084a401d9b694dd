"""What a well-formed request must still fulfil on this server: frames, actions, modes.

Pure checks against the server's ``HelloOk``; all raise ProtocolError.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim_stream.errors import ProtocolError
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import MODES, HelloOk, Open, Reset, WireAction


def require_no_arrays(arrays: Arrays) -> None:
    if arrays:
        raise ProtocolError("arrays", ", ".join(arrays), "no arrays with this type of message")


def require_actions(field: str, given: list[WireAction | None], info: HelloOk) -> None:
    if not info.takes_actions and any(action is not None for action in given):
        raise ProtocolError(field, "an action", f"null: {info.model_id} takes no actions")


def require_frames(request: Open | Reset, arrays: Arrays, info: HelloOk) -> npt.NDArray[np.uint8]:
    """The context frames [T, H, W, 3]; their actions fit them."""
    if list(arrays) != ["frames"]:
        raise ProtocolError("arrays", ", ".join(arrays) or "none", "one array named frames")
    frames = arrays["frames"]
    if frames.dtype != np.uint8:
        raise ProtocolError("frames.dtype", frames.dtype.str, "|u1")
    if frames.ndim != 4 or frames.shape[1:] != info.frame_shape:
        raise ProtocolError(
            "frames.shape", list(frames.shape), f"[T, {', '.join(map(str, info.frame_shape))}]"
        )
    if not info.context_min <= len(frames) <= info.context_max:
        raise ProtocolError("frames", len(frames), f"{info.context_min}..{info.context_max} frames")
    if request.actions is not None:
        if len(request.actions) != len(frames):
            raise ProtocolError("actions", len(request.actions), f"{len(frames)}, one per frame")
        require_actions("actions", request.actions, info)
    return frames.astype(np.uint8, copy=False)


def period_ns(info: HelloOk) -> int:
    """Between two frames."""
    return round(1e9 * info.fps_den / info.fps_num)


def require_offered(request: Open, info: HelloOk) -> None:
    """Modes and periods that this version of the server has."""
    if request.mode not in MODES:
        raise ProtocolError("mode", request.mode, ", ".join(MODES))
    period_us = round(period_ns(info) / 1e3)
    if request.dt_us is not None and request.dt_us != period_us:
        raise ProtocolError("dt_us", request.dt_us, f"null or {period_us} ({info.fps:g} fps)")
