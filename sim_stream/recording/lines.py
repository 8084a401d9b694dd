"""The lines of a recording: one JSON object a frame, enough to reproduce every one of them.

Requests and frames are the wire's own structures. What was cut off anywhere reads up to its last
whole line. Knows no files and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import Close, Count, FrameInfo, HelloOk, Open, Reset, Step
from sim_stream.wire.observe import SessionRequest

FORMAT = 1
# By who records: the stamp of a reply on its way, by the recorder's own clock.
RECORDED_AT = {"server": "srv_send", "client": "client_recv"}


class Line(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What stands on one line."""


class Header(Line, frozen=True, kw_only=True, tag="header"):
    """The first line: who recorded what. ``options``: how the server was started, where known.

    ``created`` (UTC, ISO 8601) is when the session stood, ``created_ns`` the same on the recorder's
    monotonic clock: the bridge from its stamps to the wall clock. ``video``: the file with the
    frames' pixels.
    """

    format: int = FORMAT
    by: Literal["server", "client"]
    sid: str
    created: str
    created_ns: int
    video: str
    lossless: bool
    info: HelloOk
    options: dict[str, str | int | None] = {}


class Prompt(Struct, frozen=True, kw_only=True):
    """The frames that an open or reset came with, and the sha256 of each.

    They are those of ``file`` from index ``first`` on.
    """

    file: str
    sha256: list[str]
    first: Count = 0


class Shown(Line, frozen=True, kw_only=True, tag="frame"):
    """A request and the frame it brought. ``sha256`` is that of its pixels, RGB row by row.

    ``index``: which frame of the video they are. ``prompt`` and ``prompt_psnr_db``: with an open or
    reset.
    """

    request: Open | Reset | Step | Close
    committed_step: int
    frame: FrameInfo
    sha256: str
    index: int
    prompt: Prompt | None = None
    prompt_psnr_db: float | None = None


class Forked(Line, frozen=True, kw_only=True, tag="forked"):
    """In place of an open: all that the parent's first ``parent_lines`` lines tell came before.

    ``resumed``: it is the same session, which goes on after a restart of its server.
    """

    parent: str
    parent_lines: int
    committed_step: int
    resumed: bool = False


class Refused(Line, frozen=True, kw_only=True, tag="refused"):
    """A request that the engine did not fulfil; it changed nothing."""

    request: SessionRequest
    code: str
    message: str


class End(Line, frozen=True, kw_only=True, tag="end"):
    """The last line. ``complete``: the session was closed and all of it is here."""

    reason: str
    complete: bool


AnyLine = Header | Shown | Forked | Refused | End
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


def encode_line(line: AnyLine) -> bytes:
    return _ENCODER.encode(line)


@dataclass(frozen=True)
class Lines:
    """As read. ``cut``: unreadable from some point on, or without the last line."""

    header: Header
    lines: list[AnyLine]
    cut: bool


def decode_lines(path: Path, raw_lines: Iterable[bytes]) -> Lines:
    """Everything up to the first line that makes no sense. Raises InvalidInput, naming ``path``."""
    lines: list[AnyLine] = []
    try:
        for raw in raw_lines:
            lines.append(_DECODER.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # what follows cannot be trusted
    except OSError as error:
        raise InvalidInput("recording", f"{path} ({error.strerror})", "a recording") from error
    if not lines or not isinstance(lines[0], Header):
        raise InvalidInput("recording", f"{path} (no header)", "a recording of this program")
    header = lines[0]
    if header.format != FORMAT:
        raise InvalidInput("recording", f"{path} of format {header.format}", f"format {FORMAT}")
    return Lines(header, lines, cut=not isinstance(lines[-1], End))
