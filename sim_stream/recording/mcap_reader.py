"""An MCAP recording read from the front, up to where it was cut off or damaged.

The index at a file's end is not used: a file that was cut off has none. Needs the extra ``mcap``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from mcap.exceptions import McapError
from mcap.records import Channel, DataEnd, Message
from mcap.stream_reader import StreamReader
from zstandard import ZstdError

from sim_stream.recording.mcap_schemas import FRAMES, LINES, PROMPTS, CompressedImage
from sim_stream.recording.pixels import decode_png
from sim_stream.video_writer import Image

RECORD_BYTES = 256 * 1024 * 1024  # more in one record is no recording of ours
# What reading a file that was cut off or damaged may fail with; the last two: by a huge length.
READ_ERRORS = (
    *(McapError, ZstdError, struct.error, ValueError, KeyError),
    *(OverflowError, MemoryError),
)
_IMAGES = msgspec.json.Decoder(CompressedImage)


def raw_lines(path: Path) -> Iterator[bytes]:
    """As far as the file can be read. Raises OSError."""
    return _data(path, lambda topic: topic.startswith(LINES))


def read_frames(path: Path) -> Iterator[Image]:
    return _images(path, FRAMES)


def read_prompts(path: Path) -> Iterator[Image]:
    return _images(path, PROMPTS)


def _images(path: Path, topic: str) -> Iterator[Image]:
    """As far as they can be read; nothing where there is no file."""
    try:
        for data in _data(path, topic.__eq__):
            yield decode_png(_IMAGES.decode(data).data)
    except (OSError, msgspec.MsgspecError):
        return


def _data(path: Path, wanted: Callable[[str], bool]) -> Iterator[bytes]:
    """What the messages of those topics hold, up to the first that is missing."""
    messages = (message for topic, message in _messages(path) if wanted(topic))
    for index, message in enumerate(messages):
        if message.sequence != index:  # a damaged chunk may have been skipped as unknown
            return
        yield message.data


def _messages(path: Path) -> Iterator[tuple[str, Message]]:
    """With their topics, from the front: the index of a file that was cut off is not there."""
    topics: dict[int, str] = {}
    with path.open("rb") as file:
        reader = StreamReader(file, validate_crcs=True, record_size_limit=RECORD_BYTES)
        try:
            for record in reader.records:
                if isinstance(record, Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, Message):
                    yield topics[record.channel_id], record
                elif isinstance(record, DataEnd):
                    return
        except READ_ERRORS:
            return
