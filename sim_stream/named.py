"""A user's own code by its name, MODULE:CALLABLE: how it is found, and what is said where it fails.

Knows neither models, policies nor worlds.
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


def find(what: str, name: str, allowed: str, failed: type[SimStreamError]) -> Callable[..., Any]:
    """The callable of that name. Raises InvalidInput, and `failed` where its module raises."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise InvalidInput(what, name, allowed)
    if "" not in sys.path and os.getcwd() not in sys.path:  # where the command is a script
        sys.path.append(os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(what, f"{name} ({error})", allowed) from error
    except Exception as error:  # whatever a user's module raises
        raise failed(f"{what} {name}: importing it raised {where(error)}") from error
    if not callable(found):
        raise InvalidInput(what, f"{name}, a {type(found).__name__}", allowed)
    callable_found: Callable[..., Any] = found
    return callable_found


def where(error: Exception) -> str:
    """The error, and the last line of code that it passed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {last.lineno} of {last.filename})"


def shown(value: object) -> str:
    """A value of a user's, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
