"""The lines of a recording: one JSON object a request, enough to reproduce what it brought.

Requests and frames are the wire's own structures. What was cut off anywhere reads up to its last
whole line. Knows no files, no pixels and no arrays.
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
from sim_stream.spec import Dtype
from sim_stream.wire.messages import (
    I64,
    U64,
    Close,
    Count,
    Frames,
    HelloOk,
    Name,
    Open,
    Reset,
    Shape,
    Step,
)
from sim_stream.wire.observe import SessionRequest

FORMAT = 2
# By who records: the stamp of a reply on its way, by the recorder's own clock.
RECORDED_AT = {"server": "srv_send", "client": "client_recv"}

Sha256 = Annotated[str, Meta(max_length=64)]  # in hex


class Line(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What stands on one line."""


class Header(Line, frozen=True, kw_only=True, tag="header"):
    """The first line: who recorded what. ``options``: how the server was started, where known.

    ``created`` (UTC, ISO 8601) is when the session stood, ``created_ns`` the same on the recorder's
    monotonic clock: the bridge from its stamps to the wall clock. ``video``: the file with the
    frames' pixels, ``arrays``: the one with the requests' arrays, which is there once one came.
    """

    format: int = FORMAT
    by: Literal["server", "client"]
    sid: str
    created: str
    created_ns: int
    video: str
    arrays: str
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


class Kept(Struct, frozen=True, kw_only=True):
    """An array that a request came with: zlib, ``stored`` bytes, ``sha256`` that of what they hold.

    ``first`` is where they begin in the header's ``arrays``, in an MCAP file which of its arrays
    they are.
    """

    name: Name
    dtype: Dtype
    shape: Shape
    first: Count
    stored: Count
    sha256: Sha256


class Shown(Line, frozen=True, kw_only=True, tag="shown"):
    """A request and the frames it brought, none where an open or reset had no prompt frames.

    ``sha256`` is that of each one's pixels, RGB row by row; ``index``: which frame of the video the
    first of them is. ``prompt``, where there were prompt frames, and ``prompt_psnr_db``: with an
    open or reset. ``arrays``: what else the request came with.
    """

    request: Open | Reset | Step | Close
    committed_step: I64
    frames: Frames
    sha256: Annotated[list[Sha256], Meta(max_length=256)]
    index: Count
    arrays: Annotated[list[Kept], Meta(max_length=16)] = []
    prompt: Prompt | None = None
    prompt_psnr_db: float | None = None


class Forked(Line, frozen=True, kw_only=True, tag="forked"):
    """In place of an open: all that the parent's first ``parent_lines`` lines tell came before.

    ``seed``: of its noise from here on, null where it goes on with the parent's. ``resumed``: it is
    the same session, which goes on after a restart of its server.
    """

    parent: str
    parent_lines: Count
    committed_step: I64
    seed: U64 | None = None
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


class _Version(Struct, frozen=True, kw_only=True, tag_field="kind", tag="header"):
    """What a header of any format begins with."""

    format: Count


AnyLine = Header | Shown | Forked | Refused | End
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)
_VERSION = msgspec.json.Decoder(_Version)
_NO_TIMES: dict[str, int] = {}
_NO_STATS: dict[str, list[float]] = {}


def encode_line(line: AnyLine) -> bytes:
    return _ENCODER.encode(line)


@dataclass(frozen=True)
class Lines:
    """As read, the frames' timings, stamps and stats left out.

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
            if not lines:
                _require_format(path, raw)
            line = _without_figures(_DECODER.decode(raw))
            budget.take(len(encode_line(line)))
            lines.append(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        pass  # what follows cannot be trusted
    except OSError as error:
        raise InvalidInput("recording", f"{path} ({error.strerror})", "a recording") from error
    if not lines or not isinstance(lines[0], Header):
        raise InvalidInput("recording", f"{path} (no header)", "a recording of this program")
    header = lines[0]
    for text in (header.sid, header.info.spec.model_id, header.info.spec.weights_sha256):
        if not text.isprintable():  # it is shown, and says lines of its own otherwise
            raise InvalidInput("recording", f"{path} of {text!a}", "printable names")
    return Lines(header, lines, cut=not isinstance(lines[-1], End))


def _require_format(path: Path, raw: bytes) -> None:
    """Raises InvalidInput for another format, MsgspecError for what is no header."""
    found = _VERSION.decode(raw).format
    if found != FORMAT:
        raise InvalidInput("recording", f"{path} of format {found}", f"format {FORMAT}")


def _without_figures(line: AnyLine) -> AnyLine:
    """Most of a step's line is what nothing that reads it back needs."""
    if not isinstance(line, Shown):
        return line
    frames = [
        replace(frame, timings_ns=_NO_TIMES, stamps_ns=_NO_TIMES, stats=_NO_STATS)
        for frame in line.frames
    ]
    return replace(line, frames=frames)
