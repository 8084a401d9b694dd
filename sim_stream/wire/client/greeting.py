"""What a server may say of itself: a client computes with it, so it is checked before it counts.

Knows no sockets and no sessions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim_stream.errors import ProtocolError
from sim_stream.wire.messages import VERSION, HelloOk

# What an action of this version is made of.
ACTION = ("speed_mps", "yaw_rate_radps")


def check_greeting(info: HelloOk, *, frame_bytes: int) -> None:
    """``frame_bytes``: the largest frame that this client would take. Raises ProtocolError."""
    for field, given, holds, allowed in _rules(info, frame_bytes):
        if not holds:
            raise ProtocolError(f"hello_ok.{field}", given, allowed)


def _rules(info: HelloOk, frame_bytes: int) -> Iterator[tuple[str, object, bool, str]]:
    yield "protocol", info.protocol, info.protocol == VERSION, str(VERSION)
    shape, pixels = list(info.frame_shape), math.prod(info.frame_shape)
    yield "frame_shape", shape, shape[2] == 3, "3 channels"
    yield "frame_shape", shape, 0 < pixels <= frame_bytes, f"1..{frame_bytes} bytes a frame"
    context = f"{info.context_min}..{info.context_max}"
    yield "context_min", context, 1 <= info.context_min <= info.context_max, "1..context_max"
    yield (
        "limits.max_in_flight",
        info.limits.max_in_flight,
        info.limits.max_in_flight > 0,
        "above 0",
    )
    for name in ("lease_ms", "heartbeat_ms"):
        yield name, getattr(info, name), getattr(info, name) > 0, "above 0"
    yield (
        "sampling.temperature",
        info.sampling.temperature,
        info.sampling.temperature > 0,
        "above 0",
    )
    if info.action_spec:
        names = sorted(number.name for number in info.action_spec)
        yield "action_spec", ", ".join(names), names == sorted(ACTION), ", ".join(ACTION)
    for number in info.action_spec:
        bounds = f"{number.low}..{number.high}"
        ordered = math.isfinite(number.low) and math.isfinite(number.high)
        ordered = ordered and number.low < number.high
        yield f"action_spec.{number.name}", bounds, ordered, "finite, low below high"
