"""What a well-formed request must still fulfil on this server: its values, modes and periods.

Pure checks against the server's ``HelloOk``; all raise InvalidInput.
"""

from __future__ import annotations

from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import MODES, HelloOk, Open


def require_offered(request: Open, info: HelloOk) -> None:
    """Modes, lookaheads and periods that this version of the server has."""
    if request.mode not in MODES:
        raise InvalidInput("mode", request.mode, ", ".join(MODES))
    lookaheads = info.spec.lookaheads
    if request.lookahead is not None and request.lookahead not in lookaheads:
        allowed = " or ".join(map(str, sorted(lookaheads)))
        raise InvalidInput("lookahead", request.lookahead, f"{allowed}, or null")
    period_us = round(info.spec.period_ns / 1e3)
    if request.dt_us is not None and request.dt_us != period_us:
        raise InvalidInput("dt_us", request.dt_us, f"null or {period_us} ({info.spec.fps:g} fps)")
