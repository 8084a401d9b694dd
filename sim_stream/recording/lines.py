"""The lines of a recording: one JSON object a frame, enough to reproduce every one of them.

Requests and frames are the wire's own structures. What was cut off anywhere reads up to its last
whole line. Knows no files and no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import LINE_BYTES, Budget
from sim_stream.wire.messages import I64, Close, Count, FrameInfo, HelloOk, Open, Reset, Step
from sim_stream.wire.observe import SessionRequest

FORMAT = 1
# By who records: the stamp of a reply on its way, by the recorder's own clock.
RECORDED_AT = {"server": "srv_send", "client": "client_recv"}

Sha256 = Annotated[str, Meta(max_length=64)]  # in hex


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
    sha256: list[Sha256]
    first: Count = 0


class Shown(Line, frozen=True, kw_only=True, tag="frame"):
    """A request and the frame it brought. ``sha256`` is that of its pixels, RGB row by row.

    ``index``: which frame of the video they are. ``prompt`` and ``prompt_psnr_db``: with an open or
    reset.
    """

    request: Open | Reset | Step | Close
    committed_step: I64
    frame: FrameInfo
    sha256: Sha256
    index: Count
    prompt: Prompt | None = None
    prompt_psnr_db: float | None = None


class Forked(Line, frozen=True, kw_only=True, tag="forked"):
    """In place of an open: all that the parent's first ``parent_lines`` lines tell came before.

    ``resumed``: it is the same session, which goes on after a restart of its server.
    """

    parent: str
    parent_lines: Count
    committed_step: I64
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
_NONE: dict[str, int] = {}
_NO_CODES: list[int] = []


def encode_line(line: AnyLine) -> bytes:
    return _ENCODER.encode(line)


@dataclass(frozen=True)
class Lines:
    """As read, the frames' timings, stamps and accepted codes left out.

    ``cut``: unreadable from some point on, or without the last line.
    """

    header: Header
    lines: list[AnyLine]
    cut: bool


def decode_lines(
    path: Path, raw_lines: Iterable[bytes], *, first: int | None = None, budget: Budget
) -> Lines:
    """Everything up to the first line that makes no sense; of all of them the ``first``.

    Raises InvalidInput, naming ``path``.
    """
    lines: list[AnyLine] = []
    try:
        for raw in islice(raw_lines, first):
            if len(raw) > LINE_BYTES:
                break  # no line of ours
            line = _DECODER.decode(raw)
            budget.take(0 if _is_small(line) else len(raw))
            lines.append(_without_figures(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        pass  # what follows cannot be trusted
    except OSError as error:
        raise InvalidInput("recording", f"{path} ({error.strerror})", "a recording") from error
    if not lines or not isinstance(lines[0], Header):
        raise InvalidInput("recording", f"{path} (no header)", "a recording of this program")
    header = lines[0]
    if header.format != FORMAT:
        raise InvalidInput("recording", f"{path} of format {header.format}", f"format {FORMAT}")
    for text in (header.sid, header.info.model_id, header.info.weights_sha256):
        if not text.isprintable():  # it is shown, and says lines of its own otherwise
            raise InvalidInput("recording", f"{path} of {text!a}", "printable names")
    return Lines(header, lines, cut=not isinstance(lines[-1], End))


def _is_small(line: AnyLine) -> bool:
    """Whether what is kept of it is bounded by the fields' own bounds."""
    return (
        isinstance(line, Shown)
        and isinstance(line.request, Step | Close)
        and not line.request.arrays
        and line.prompt is None
    )


def _without_figures(line: AnyLine) -> AnyLine:
    """Most of a step's line is what nothing that reads it back needs."""
    if not isinstance(line, Shown):
        return line
    frame = replace(line.frame, timings_ns=_NONE, stamps_ns=_NONE, accepted=_NO_CODES)
    return replace(line, frame=frame)
