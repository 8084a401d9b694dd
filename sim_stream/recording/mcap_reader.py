"""An MCAP recording read from the front, up to where it was cut off or damaged.

The index at a file's end is not used: a file that was cut off has none. Needs the extra ``mcap``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import Shape
from sim_stream.recording.lines import Kept
from sim_stream.recording.mcap_records import messages
from sim_stream.recording.mcap_schemas import (
    ARRAYS,
    FRAMES,
    LINES,
    PROMPTS,
    CompressedImage,
    StoredArray,
)
from sim_stream.recording.pixels import WRITE_ERRORS, decode_png
from sim_stream.video_writer import Image

_IMAGES = msgspec.json.Decoder(CompressedImage)
_ARRAYS = msgspec.json.Decoder(StoredArray)


def raw_lines(path: Path) -> Iterator[bytes]:
    """As far as the file can be read. Raises OSError."""
    return _data(path, lambda topic: topic.startswith(LINES))


def read_frames(path: Path, shape: Shape | None = None) -> Iterator[Image]:
    """As far as they can be read, and have that shape; nothing where there is no file."""
    return _images(_data(path, FRAMES.__eq__), shape)


def read_prompts(path: Path, shape: Shape | None, first: int, count: int) -> Iterator[Image]:
    """``count`` of them from the ``first`` on, as ``read_frames``."""
    return _images(islice(_data(path, PROMPTS.__eq__), first, first + count), shape)


def has_frames(path: Path) -> bool:
    """Whether there are any, be they whole or not. A copy may have been made without them."""
    try:
        return any(sent.topic == FRAMES for sent in messages(path))
    except OSError:
        return False


class ArrayReader:
    """Reads a file's arrays from its front, on from the one that was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: Iterator[bytes] | None = None
        self._next = 0

    def __call__(self, kept: Kept) -> bytes:
        """As it is stored. Raises InvalidInput."""
        if self._found is None or kept.first < self._next:
            self._found, self._next = _data(self._path, ARRAYS.__eq__), 0
        try:
            message = next(islice(self._found, kept.first - self._next, None), b"")
            self._next = kept.first + 1
            data = _ARRAYS.decode(message).data
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else f"no {kept.name}"
            raise InvalidInput("recording", f"{self._path} ({why})", "its arrays") from error
        if len(data) != kept.stored:
            raise InvalidInput("recording", f"{self._path} (other {kept.name})", "its arrays")
        return data


def _images(found: Iterator[bytes], shape: Shape | None) -> Iterator[Image]:
    try:
        for data in found:
            yield decode_png(_IMAGES.decode(data).data, shape)
    except (*WRITE_ERRORS, InvalidInput, msgspec.MsgspecError, RecursionError):
        return


def _data(path: Path, wanted: Callable[[str], bool]) -> Iterator[bytes]:
    """What the messages of those topics hold, up to the first that is missing."""
    index = 0
    for sent in messages(path):
        if wanted(sent.topic):
            if sent.sequence != index:  # a damaged chunk may have been skipped as unknown
                return
            yield bytes(sent.data)
            index += 1
