"""What a failed request tells its client: the one place that turns exceptions into error codes.

Knows no sockets and no sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from sim_stream.errors import InvalidInput, SimStreamError, Unavailable
from sim_stream.wire.archive import NotResumable
from sim_stream.wire.messages import RETRYABLE, Error, ErrorCode

T = TypeVar("T")
log = logging.getLogger(__name__)

# Longer texts help nobody and must fit the message's bound.
MESSAGE_CHARS = 1000


class Refusal(SimStreamError):
    """A request that the server refuses; travels to the client as an error message."""

    def __init__(self, code: ErrorCode, message: str, *, committed_step: int = -1) -> None:
        super().__init__(message[:MESSAGE_CHARS])
        self.code = code
        self.message = message[:MESSAGE_CHARS]
        self.committed_step = committed_step

    def to_error(self, *, rid: int, sid: str, committed_step: int) -> Error:
        return Error(
            rid=rid,
            sid=sid,
            code=self.code,
            message=self.message,
            retryable=self.code in RETRYABLE,
            committed_step=committed_step,
        )


def attempt(
    call: Callable[[], T], *, what: str, ids: Mapping[str, object] | None = None
) -> T | Refusal:
    """Runs a call into the engine; whatever it raises comes back as a Refusal.

    ``ids``: of the session, step and request, for the log.
    """
    try:
        return call()
    except Refusal as refusal:
        return refusal
    except NotResumable as error:
        return Refusal(ErrorCode.NO_SESSION, str(error))
    except InvalidInput as error:
        return Refusal(ErrorCode.BAD_MESSAGE, str(error))
    except Unavailable as error:
        return Refusal(ErrorCode.LIMIT, str(error))
    # The engine boundary: models, CUDA and user presets may raise anything, and one session's
    # failure must not end the thread that serves the others.
    except Exception as error:
        log.exception("engine failed: %s", what, extra=ids)
        return Refusal(ErrorCode.ENGINE_FAILED, failure(what, error))


def failure(what: str, error: Exception) -> str:
    """What a client is told of it; an error may fail even at saying what it is."""
    try:
        said = str(error)
    except Exception as another:
        said = f"(its text failed with {type(another).__name__})"
    return f"{what}: {type(error).__name__}: {said}"
