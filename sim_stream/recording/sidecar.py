"""The sidecar of a recording: one JSON line a frame, enough to reproduce every one of them.

The first line is the header; requests and frames are the wire's own structures. A file that was
cut off anywhere reads up to its last whole line. Knows no pixels and no threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from sim_stream.errors import InvalidInput
from sim_stream.wire.messages import Close, FrameInfo, HelloOk, Open, Reset, Step
from sim_stream.wire.observe import SessionRequest

FORMAT = 1
# Given back when the disk is full, so that the last line still fits.
RESERVE_BYTES = 16 * 1024


class Line(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What stands on one line."""


class Header(Line, frozen=True, kw_only=True, tag="header"):
    """Who recorded what. ``options``: how the server was started, where the recorder knew.

    ``created_ns`` is the recorder's monotonic clock at ``created`` (UTC, ISO 8601): the bridge
    from its stamps to the wall clock.
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
    """The file of the frames that an open or reset came with, and the sha256 of each."""

    file: str
    sha256: list[str]


class Shown(Line, frozen=True, kw_only=True, tag="frame"):
    """A request and the frame it brought. ``sha256`` is that of its pixels, RGB row by row.

    ``index``: which frame of the video they are. ``prompt``: with an open or reset.
    """

    request: Open | Reset | Step | Close
    committed_step: int
    frame: FrameInfo
    sha256: str
    index: int
    prompt: Prompt | None = None


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
    """The recording's last line. ``complete``: the session was closed and all of it is here."""

    reason: str
    complete: bool


AnyLine = Header | Shown | Forked | Refused | End
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)


class SidecarWriter:
    """Appends whole lines; what is written survives the process's death. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._bytes = 0
        self._reserve = path.with_name(f".{path.name}.reserve")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            self._reserve.write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            self.close()
            raise

    def write(self, line: AnyLine) -> None:
        data = memoryview(_ENCODER.encode(line) + b"\n")
        written = 0
        while written < len(data):
            written += os.write(self._file, data[written:])
        self._bytes += written
        self.lines += 1

    def end(self, reason: str, *, complete: bool) -> None:
        """Writes the last line, on a full disk too, in place of a half written one."""
        self._reserve.unlink(missing_ok=True)
        os.ftruncate(self._file, self._bytes)
        os.lseek(self._file, self._bytes, os.SEEK_SET)
        self.write(End(reason=reason, complete=complete))

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._reserve.unlink(missing_ok=True)


@dataclass(frozen=True)
class Sidecar:
    """A sidecar as read. ``cut``: unreadable from some point on, or without its last line."""

    header: Header
    lines: list[AnyLine]
    cut: bool


def read_sidecar(path: Path) -> Sidecar:
    """Everything up to the first line that is not whole. Raises InvalidInput."""
    try:
        raw_lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InvalidInput("recording", f"{path} ({error.strerror})", "a recording") from error
    lines: list[AnyLine] = []
    for raw in raw_lines[:-1]:  # what follows the last newline is nothing, or half a line
        try:
            lines.append(_DECODER.decode(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            break
    if not lines or not isinstance(lines[0], Header):
        raise InvalidInput("recording", f"{path} (no header)", "a recording of this program")
    header = lines[0]
    if header.format != FORMAT:
        raise InvalidInput("recording", f"{path} of format {header.format}", f"format {FORMAT}")
    return Sidecar(header, lines, cut=not isinstance(lines[-1], End))
