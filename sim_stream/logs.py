"""What the log looks like: lines for people, or one JSON object a line for machines.

Both go to stderr by the standard library's logging. Records about a session carry ``sid``, and
``step``, ``rid`` and ``code`` where they are known (docs/viewing.md lists them). What a peer chose
may be in any of them: in both forms it begins no line of its own and moves no terminal's cursor.
Knows no sessions.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType

from sim_stream.plain_json import to_json
from sim_stream.text import one_line

FORMATS = ("text", "json")
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Extra attributes of a record that become fields.
CONTEXT = ("sid", "step", "rid", "code")
CAUSES_SHOWN = 8
# What to_json leaves as it is and a terminal or a reader of lines does not: controls beyond
# ASCII, line separators and directions.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class TextFormatter(logging.Formatter):
    """A line for each record; a traceback's lines follow, none of which anybody else wrote."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))

    def formatException(self, ei: ExceptionInfo) -> str:
        return "" if ei[1] is None else "\n".join(_traced(ei[1]))


def _traced(error: BaseException, depth: int = 0) -> Iterator[str]:
    """As ``traceback`` tells it, with each error's own text on one line."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth < CAUSES_SHOWN:
        yield from _traced(cause, depth + 1)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    for entry in traceback.format_tb(error.__traceback__):
        yield from entry.rstrip("\n").split("\n")
    yield f"{type(error).__qualname__}: {one_line(_text(error))}"
    if isinstance(error, BaseExceptionGroup) and depth < CAUSES_SHOWN:
        for inner in error.exceptions:
            yield from (f"  {line}" for line in _traced(inner, depth + 1))


def _text(error: BaseException) -> str:
    """An error may fail even at saying what it is."""
    try:
        return str(error)
    except Exception as another:
        return f"(its text failed with {type(another).__qualname__})"


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, what is known of CONTEXT, exception."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: getattr(record, name) for name in CONTEXT if hasattr(record, name)}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        line = to_json(entry, ensure_ascii=False, default=str)
        return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


# What takes a program its time: said by default, unlike other records of its level.
progress = logging.getLogger("sim_stream.progress")


def set_up(level: str, form: str, *, with_progress: bool = False) -> None:
    """Everything from ``level`` on to stderr, as ``text`` or ``json``.

    ``with_progress``: and what takes time, unless only errors are wanted.
    """
    if with_progress and level != "error":
        progress.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
