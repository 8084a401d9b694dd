"""JSON that every reader takes: no NaN, no Infinity, no half of a surrogate pair.

Python's own writer puts all three into a text that other languages then refuse. A number that is
not finite becomes null; half a pair (a file's name that is no UTF-8 holds them) its escape as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: object, **options: Any) -> str:
    """``json.dumps`` with its options."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _plain_key(key: Any) -> Any:
    return _plain(key) if isinstance(key, str) else key
