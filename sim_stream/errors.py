"""Every error a caller can meet, as one tree.

    SimStreamError
    |- InvalidInput (ValueError)        a caller's mistake: the field, what came, what is allowed
    |  |- VideoError                    a video that cannot be read or used
    |  `- ProtocolError                 a message that breaks the wire protocol
    |- CheckpointError                  weights that do not match their manifest or configuration
    |- EngineError                      an engine that is broken or made for something else
    |- Unavailable (RuntimeError)       something asked for is not there (device, package, port)
    |- SessionClosed (RuntimeError)     a call on a session that was closed
    `- RemoteError (RuntimeError)       the server answered with an error message
       `- ConnectionLost                the server did not answer in time

Knows nothing about where errors are raised; the wire's codes are in ``sim_stream.wire.messages``.
"""

from __future__ import annotations

from sim_stream.text import one_line


class SimStreamError(Exception):
    """Root of every error this package raises on purpose."""


class InvalidInput(SimStreamError, ValueError):
    """A value that is not allowed. Nothing was changed by the call that raised it."""

    def __init__(self, field: str, given: object, allowed: str) -> None:
        super().__init__(one_line(f"{field}: got {given!s}; allowed: {allowed}"))
        self.field = field
        self.given = given
        self.allowed = allowed


class VideoError(InvalidInput):
    """A video file that does not exist, cannot be decoded, or does not hold what is needed."""


class ProtocolError(InvalidInput):
    """A message that is malformed, too large, or out of place."""


class CheckpointError(SimStreamError):
    """Weights whose keys, shapes or hashes do not match; names every mismatch at once."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class EngineError(SimStreamError):
    """An engine or graph that is corrupt, unverified, or not made for what it should run with."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Unavailable(SimStreamError, RuntimeError):
    """A device, package, port or file that was asked for and is not there."""


class SessionClosed(SimStreamError, RuntimeError):
    """The session was closed; open a new one."""


class RemoteError(SimStreamError, RuntimeError):
    """The server refused a request.

    Attributes: ``code`` (wire error code), ``retryable``, ``committed_step`` (-1: none).
    """

    def __init__(self, code: str, message: str, *, retryable: bool, committed_step: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.retryable = retryable
        self.committed_step = committed_step


class ConnectionLost(RemoteError):
    """No answer within the client's timeout; ``hint`` says why, where that is known."""

    def __init__(self, endpoint: str, timeout_s: float, *, hint: str = "") -> None:
        super().__init__(
            "CONNECTION_LOST",
            f"no answer from {endpoint} within {timeout_s:g} s" + (f": {hint}" if hint else ""),
            retryable=True,
            committed_step=-1,
        )
