"""The formats of a recording behind one interface: what writes one, what reads one.

Knows the formats' names and suffixes; what is in the files is theirs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sim_stream.errors import InvalidInput, Unavailable
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
MCAP = "mcap"
FORMATS = (*VIDEO_FORMATS, MCAP)
LINE_SUFFIXES = (video_files.SIDECAR, f".{MCAP}")  # of the files that hold lines


def create_files(form: str) -> Create:
    """What starts a session's files of that format: (folder, name, info).

    Raises InvalidInput, and Unavailable for MCAP without the extra.
    """
    if form not in FORMATS:
        raise InvalidInput("record-format", form, ", ".join(FORMATS))
    if form == MCAP:
        create: Create = _mcap("files").McapFiles
        return create
    return partial(video_files.VideoFiles, form=VIDEO_FORMATS[form])


def line_file(path: Path) -> Path:
    """The file with the lines of the recording to which that file belongs."""
    return path if path.suffix in LINE_SUFFIXES else path.with_suffix(video_files.SIDECAR)


def read_lines(path: Path) -> Lines:
    """Up to where it was cut off. Raises InvalidInput, Unavailable."""
    raw_lines = _mcap("reader").raw_lines if _is_mcap(path) else video_files.raw_lines
    return decode_lines(path, raw_lines(path))


def read_frames(path: Path) -> Iterator[Image]:
    """The frames that left, as far as they can be read."""
    return _mcap("reader").read_frames(path) if _is_mcap(path) else read_pixels(path)


def read_prompts(path: Path) -> Iterator[Image]:
    """The frames that went in, as far as they can be read."""
    return _mcap("reader").read_prompts(path) if _is_mcap(path) else read_pixels(path)


def _is_mcap(path: Path) -> bool:
    return path.suffix == f".{MCAP}"


def _mcap(part: str) -> Any:
    try:
        return import_module(f"sim_stream.recording.mcap_{part}")
    except ImportError as error:
        raise Unavailable(
            f"{error.name} is not installed, which MCAP recordings need: "
            "pip install 'sim-stream[mcap]'"
        ) from error
