"""The formats of a recording behind one interface: what writes one, what reads one.

Knows the formats' names and suffixes; what is in the files is theirs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

from sim_stream.errors import InvalidInput
from sim_stream.recording import video_files
from sim_stream.recording.lines import AnyLine, End, Lines, Prompt, decode_lines
from sim_stream.recording.pixels import VIDEO_FORMATS, read_pixels
from sim_stream.video_writer import Image
from sim_stream.wire.messages import HelloOk


class Files(Protocol):
    """One session's recording being written. Methods raise one of ``pixels.WRITE_ERRORS``.

    ``path`` is the file that ``load`` takes, ``video`` the name of the one with the frames, which
    are bit-exact where ``lossless``; ``lines``: how many were written.
    """

    lossless: bool
    video: str

    @property
    def path(self) -> Path: ...

    @property
    def lines(self) -> int: ...

    def write_frame(self, image: Image) -> int:
        """Its index. uint8 [H, W, 3]; the line that tells of it comes after it."""

    def write_prompt(self, frames_THWC: Image) -> Prompt: ...

    def write_line(self, line: AnyLine) -> None: ...

    def end(self, line: End) -> None:
        """Writes the last line, on a full disk too, and closes."""


Create: TypeAlias = Callable[[Path, str, HelloOk], Files]


def create_files(form: str) -> Create:
    """What starts a session's files of that format: (folder, name, info). Raises InvalidInput."""
    if form not in VIDEO_FORMATS:
        raise InvalidInput("record-format", form, ", ".join(VIDEO_FORMATS))
    return partial(video_files.VideoFiles, form=VIDEO_FORMATS[form])


def line_file(path: Path) -> Path:
    """The file with the lines of the recording to which that file belongs."""
    return path.with_suffix(video_files.SIDECAR)


def read_lines(path: Path) -> Lines:
    """Up to where it was cut off. Raises InvalidInput."""
    return decode_lines(path, video_files.raw_lines(path))


def read_frames(path: Path) -> Iterator[Image]:
    """The frames that left, as far as they can be read."""
    return read_pixels(path)


def read_prompts(path: Path) -> Iterator[Image]:
    """The frames that went in, as far as they can be read."""
    return read_pixels(path)
