"""Code of a user's, named MODULE:CALLABLE on a command line: a model, a world, a policy.

Knows none of them; whoever asks says what is allowed and checks what comes.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from sim_stream.errors import InvalidInput, SimStreamError

SPELLED = "MODULE:CALLABLE that can be imported from here"
SHOWN_CHARS = 80


class UserCodeFailed(SimStreamError, RuntimeError):
    """A user's code raised an error; the message holds where."""


def find_callable(
    field: str, name: str, *, allowed: str, failed: type[UserCodeFailed] = UserCodeFailed
) -> Callable[..., Any]:
    """What a module that can be imported from here calls so.

    Raises InvalidInput, and ``failed`` where the module itself raises.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise InvalidInput(field, name, allowed)
    if "" not in sys.path and os.getcwd() not in sys.path:  # where `sim-stream` is a script
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(field, f"{name} ({error})", allowed) from error
    except Exception as error:  # the user's module itself
        raise failed(f"{field} {name}: importing it raised {where(error)}") from error
    if not callable(found):
        raise InvalidInput(field, f"{name}, a {type(found).__name__}", allowed)
    made_from: Callable[..., Any] = found
    return made_from


def where(error: Exception) -> str:
    """The error, and the last line of code that it passed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {last.lineno} of {last.filename})"


def shown(value: object) -> str:
    """A value of a user's, short enough for a line."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 3]}..."
