"""The formats of a recording behind one interface: what writes one, what reads one.

Knows the formats' names and suffixes; what is in the files is theirs to know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.recording import video_files
from sim_stream.recording.bounds import Budget, Shape, require_prompt
from sim_stream.recording.lines import AnyLine, End, Kept, Lines, Prompt, decode_lines
from sim_stream.recording.names import beside
from sim_stream.recording.pixels import VIDEO_FORMATS, read_pixels
from sim_stream.video_writer import Image
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import HelloOk

# What gives an array's bytes as they are stored. Raises InvalidInput where they are not there.
ReadArray: TypeAlias = Callable[[Kept], bytes]


class Files(Protocol):
    """One session's recording being written. Methods raise one of ``pixels.WRITE_ERRORS``.

    ``path`` is the file that ``load`` takes, ``video`` the name of the one with the frames, which
    are bit-exact where ``lossless``, ``arrays`` of the one with the arrays; ``lines``: how many
    were written. What a line tells of is written before it.
    """

    lossless: bool
    video: str
    arrays: str

    @property
    def path(self) -> Path: ...

    @property
    def lines(self) -> int: ...

    def write_frames(self, images: Image) -> int:
        """The first one's index. uint8 [N, H, W, 3], maybe none."""

    def write_prompt(self, frames_THWC: Image) -> Prompt: ...

    def write_arrays(self, arrays: Arrays) -> list[Kept]: ...

    def write_line(self, line: AnyLine) -> None: ...

    def end(self, line: End) -> None:
        """Writes the last line, on a full disk too, and closes."""


Create: TypeAlias = Callable[[Path, str, HelloOk], Files]


class Reader(NamedTuple):
    """Each as far as the file can be read; ``raw_lines`` raises OSError where there is none."""

    raw_lines: Callable[[Path], Iterator[bytes]]
    frames: Callable[[Path, Shape | None], Iterator[Image]]
    prompts: Callable[[Path, Shape, int, int], Iterator[Image]]
    has_frames: Callable[[Path], bool]
    arrays: Callable[[Path], ReadArray]


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
        with _extra():
            from sim_stream.recording.mcap_files import McapFiles
        return McapFiles
    return partial(video_files.VideoFiles, form=VIDEO_FORMATS[form])


def line_file(path: Path) -> Path:
    """The file with the lines of the recording to which that file belongs. Raises InvalidInput."""
    if not path.name:
        raise InvalidInput("recording", repr(str(path)), "the name of a file")
    return path if path.suffix in LINE_SUFFIXES else path.with_suffix(video_files.SIDECAR)


def read_lines(path: Path, *, first: int | None = None, budget: Budget | None = None) -> Lines:
    """Up to where it was cut off, the ``first`` of them. Raises InvalidInput, Unavailable."""
    raw_lines = _reader(path).raw_lines(path)
    return decode_lines(path, raw_lines, first=first, budget=budget or Budget())


def file_of(lines: Path, named: str, recorded_as: str) -> Path:
    """The file with the pictures or arrays that a line names. Raises InvalidInput.

    An MCAP file has its own, whatever its name was; another is the one that goes with the sidecar's
    name now, or else the one of that very name (``names``).
    """
    if lines.suffix == f".{MCAP}":
        return lines
    return beside(lines, named, recorded_as)


def read_frames(path: Path, shape: Shape | None = None) -> Iterator[Image]:
    """The frames that left, as far as they can be read and are of that shape, [H, W, 3].

    Raises Unavailable.
    """
    return _reader(path).frames(path, shape)


def read_prompts(path: Path, shape: Shape, first: int, count: int) -> Iterator[Image]:
    """``count`` frames that went in, from the ``first`` on, as ``read_frames``.

    Raises InvalidInput where there can be no so many.
    """
    return _reader(path).prompts(path, shape, first, count)


def has_frames(path: Path) -> bool:
    """Whether frames that left are there, be they whole or not. Raises Unavailable."""
    return _reader(path).has_frames(path)


def arrays_in(path: Path) -> ReadArray:
    """What reads the arrays of that file, quickest in their order. Raises Unavailable."""
    return _reader(path).arrays(path)


def _reader(path: Path) -> Reader:
    if path.suffix != f".{MCAP}":
        return Reader(
            video_files.raw_lines,
            read_pixels,
            _first_pixels,
            os.path.isfile,
            lambda path: partial(video_files.read_array, path),
        )
    with _extra():
        import sim_stream.recording.mcap_reader as mcap
    return Reader(
        mcap.raw_lines, mcap.read_frames, mcap.read_prompts, mcap.has_frames, mcap.ArrayReader
    )


def _first_pixels(path: Path, shape: Shape, first: int, count: int) -> Iterator[Image]:
    require_prompt(shape, first + count)  # it has a file of its own
    return islice(read_pixels(path, shape), first, first + count)


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise Unavailable(
            f"{error.name} is not installed, which MCAP recordings need: "
            "pip install 'sim-stream[mcap]'"
        ) from error
