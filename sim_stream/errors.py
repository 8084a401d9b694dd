"""Every error a caller can meet, as one tree.

    SimStreamError
    |- InvalidInput (ValueError)        a caller's mistake: the field, what came, what is allowed
    |  |- VideoError                    a video that cannot be read or used
    |  `- ProtocolError                 a message that breaks the wire protocol
    |- CheckpointError                  weights that do not match their manifest or configuration
    |- EngineError                      an engine that is broken or made for something else
    |- Unavailable (RuntimeError)       something asked for is not there (device, package, port)
    |- SessionClosed (RuntimeError)     a call on a session that was closed
    |- WrongOwner (RuntimeError)        a client used by a process or thread that it is not of
    `- RemoteError (RuntimeError)       the server answered with an error message
       `- ConnectionLost                the server did not answer in time
          `- NobodyListens              there is no server at that address

All of them may be copied and pickled, whatever their constructors take, so they cross from a worker
process to its parent as they are. Knows nothing about where errors are raised; the wire's codes are
in ``sim_stream.wire.messages``.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any, Self, TypeVar

from sim_stream.text import one_line

E = TypeVar("E", bound="SimStreamError")

# Of longer integers Python itself refuses to print some, and nobody reads the others.
PRINTED_BITS = 256


class _Retold(type):
    """Errors that may be made again of themselves or of their text alone.

    Whoever carries errors between processes does that, Gymnasium's AsyncVectorEnv for one:
    ``raise type(error)(error)``. Then the attributes are the error's, or their defaults.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        told = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(told, cls):
            return copy.copy(told)
        if isinstance(told, str | BaseException):
            try:
                inspect.signature(cls.__init__).bind(None, told)  # type: ignore[misc]
            except TypeError:
                return rebuilt(cls, (str(told),), {})  # type: ignore[arg-type]
        return super().__call__(*args, **kwargs)


class SimStreamError(Exception, metaclass=_Retold):
    """Root of every error this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """What cannot be pickled, such as a lock that came as an argument, goes as its text."""
        return rebuilt, (type(self), *_each(_pickled, self))

    def __copy__(self) -> Self:
        return rebuilt(type(self), self.args, self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return rebuilt(type(self), *_each(lambda value: _deeply(value, memo), self))


def rebuilt(kind: type[E], args: tuple[Any, ...], state: dict[str, Any]) -> E:
    """An error as it was, past its constructor, which may take other arguments than ``args``."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _each(
    change: Callable[[Any], Any], error: SimStreamError
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Its arguments and attributes, changed."""
    state = {name: change(value) for name, value in error.__dict__.items()}
    return tuple(change(value) for value in error.args), state


def _pickled(value: Any) -> Any:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # a caller's object may raise anything when it is pickled
        return shown(value)
    return value


def _deeply(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # as above
        return value


def shown(value: object) -> str:
    """A value as messages show it: one that looks like another type's says what it is.

    8.0 is a float, '8.0' a text, "8.0 (numpy.ndarray)" neither.
    """
    kind = type(value)
    if isinstance(value, int) and value.bit_length() > PRINTED_BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = str(value)
    except Exception:  # as above
        return f"a {kind.__module__}.{kind.__qualname__}"
    if kind in (bool, int, float, complex, type(None)) or not _misleads(text):
        return text
    return repr(text) if isinstance(value, str) else f"{text} ({kind.__module__}.{kind.__name__})"


def _misleads(text: str) -> bool:
    """Whether it could be a number, a constant, or nothing at all."""
    if text in ("True", "False", "None") or text != text.strip() or not text:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


class InvalidInput(SimStreamError, ValueError):
    """A value that is not allowed. Nothing was changed by the call that raised it."""

    field: str = ""
    given: object = None
    allowed: str = ""

    def __init__(self, field: str, given: object, allowed: str) -> None:
        super().__init__(one_line(f"{field}: got {shown(given)}; allowed: {allowed}"))
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


class WrongOwner(SimStreamError, RuntimeError):
    """A client, or a session of one, was used where it cannot work: in a process forked from its
    own, in another event loop, or in two threads at once. Nothing was sent."""


class RemoteError(SimStreamError, RuntimeError):
    """The server refused a request.

    Attributes: ``code`` (wire error code), ``retryable``, ``committed_step`` (-1: none).
    """

    code: str = ""
    retryable: bool = False
    committed_step: int = -1

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


class NobodyListens(ConnectionLost):
    """No server came to that address within the time that a client gives it to appear."""
