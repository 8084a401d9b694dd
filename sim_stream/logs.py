"""What the log looks like: lines for people, or one JSON object a line for machines.

Both go to stderr by the standard library's logging. Records about a session carry ``sid``, and
``step``, ``rid`` and ``code`` where they are known (docs/viewing.md lists them). Knows no sessions.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

FORMATS = ("text", "json")
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Extra attributes of a record that become fields.
CONTEXT = ("sid", "step", "rid", "code")


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
        return json.dumps(entry, ensure_ascii=False, default=str)


# What takes a program its time: said by default, unlike other records of its level.
progress = logging.getLogger("sim_stream.progress")


def set_up(level: str, form: str, *, with_progress: bool = False) -> None:
    """Everything from ``level`` on to stderr, as ``text`` or ``json``.

    ``with_progress``: and what takes time, unless only errors are wanted.
    """
    if with_progress and level != "error":
        progress.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
