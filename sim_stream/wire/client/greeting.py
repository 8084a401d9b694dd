"""What a server may say of itself: a client computes with it, so it is checked before it counts.

What a spec must be in itself ``spec.StreamSpec`` refuses when it is decoded.

Knows no sockets and no sessions.
"""

from __future__ import annotations

from collections.abc import Iterator

from sim_stream.errors import ProtocolError
from sim_stream.wire.messages import VERSION, HelloOk


def check_greeting(info: HelloOk, *, frame_bytes: int) -> None:
    """``frame_bytes``: the largest chunk that this client would take. Raises ProtocolError."""
    for field, given, holds, allowed in _rules(info, frame_bytes):
        if not holds:
            raise ProtocolError(f"hello_ok.{field}", given, allowed)


def _rules(info: HelloOk, frame_bytes: int) -> Iterator[tuple[str, object, bool, str]]:
    yield "protocol", info.protocol, info.protocol == VERSION, str(VERSION)
    spec = info.spec
    chunk = spec.frame_bytes * spec.frames_per_step
    yield "spec.frame_shape", list(spec.frame_shape), chunk <= frame_bytes, f"{frame_bytes} bytes"
    in_flight = info.limits.max_in_flight
    yield "limits.max_in_flight", in_flight, in_flight > 0, "above 0"
    for name in ("lease_ms", "heartbeat_ms"):
        yield name, getattr(info, name), getattr(info, name) > 0, "above 0"
