"""A recording as one MCAP file, which Foxglove and other MCAP tools open; docs/recording.md.

What a line tells of, pictures as PNG and arrays, is written at once with it, as one chunk where
that is no more than 1 MiB, so that a dead process costs the last one at most. Needs the extra
``mcap``. Reading: ``mcap_reader``.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import IO, cast

import msgspec
from mcap.well_known import MessageEncoding, SchemaEncoding
from mcap.writer import IndexType, Writer

from sim_stream.recording.append_file import AppendFile
from sim_stream.recording.arrays import kept_as, packed
from sim_stream.recording.lines import (
    RECORDED_AT,
    AnyLine,
    End,
    Header,
    Kept,
    Prompt,
    Shown,
    encode_line,
)
from sim_stream.recording.mcap_schemas import (
    ARRAYS,
    FRAMES,
    IMAGE_SCHEMA,
    PROMPTS,
    CompressedImage,
    StoredArray,
    Time,
    array_schema,
    image_schema,
    line_schemas,
    topic_of,
)
from sim_stream.recording.pixels import sha256_of
from sim_stream.video_writer import Image, encode_png
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import HelloOk

log = logging.getLogger(__name__)

SUFFIX = ".mcap"
# Measured on the shipped clip: as small as the slower filters and levels, but for 5 %.
PNG_OPTIONS = {"compression_level": "1", "pred": "sub"}


class McapFiles:
    """One session's file; see ``formats.Files``. Methods raise WRITE_ERRORS."""

    lossless = True

    def __init__(self, folder: Path, name: str, info: HelloOk) -> None:
        self.path = folder / f"{name}{SUFFIX}"
        self.video = self.arrays = self.path.name
        self.lines = 0
        self._counts = {FRAMES: 0, PROMPTS: 0, ARRAYS: 0}
        # For their line and its time: topic, number, a PNG or an array.
        self._waiting: list[tuple[str, int, bytes | StoredArray]] = []
        self._clock = Clock()
        self._file = AppendFile(self.path)
        self._channels = Channels(self._file)

    def write_frames(self, images: Image) -> int:
        return self._add_images(FRAMES, images)

    def write_prompt(self, frames_THWC: Image) -> Prompt:
        hashes = [sha256_of(image) for image in frames_THWC]
        first = self._add_images(PROMPTS, frames_THWC)
        return Prompt(file=self.path.name, sha256=hashes, first=first)

    def write_arrays(self, arrays: Arrays) -> list[Kept]:
        kept = []
        for name, array in arrays.items():
            data = packed(array)
            said = kept_as(name, array, first=self._counts[ARRAYS], stored=len(data))
            kept.append(said)
            self._add(ARRAYS, StoredArray(name=name, dtype=said.dtype, shape=said.shape, data=data))
        return kept

    def write_line(self, line: AnyLine) -> None:
        self._clock.set_by(line)
        if isinstance(line, Header):
            self._channels.start(about(line))
        for topic, index, content in self._waiting:
            if isinstance(content, StoredArray):
                self._channels.add_array(index, content, self._clock.now_ns)
            else:
                self._channels.add_image(topic, index, content, self._clock.now_ns)
        self._waiting.clear()
        self._channels.add_line(line, self.lines, self._clock.now_ns)
        self._channels.flush()
        self.lines += 1

    def end(self, line: End) -> None:
        """On a full disk the file ends without its index: tools then read it from the front."""
        try:
            if not self._file.torn and self._finish(line):
                return
            self._file.make_room()
            self._channels.drop_index()
            self._channels.finish(line, self.lines, self._clock.now_ns)
        finally:
            self._file.close()

    def _finish(self, line: End) -> bool:
        try:
            self._channels.finish(line, self.lines, self._clock.now_ns)
        except OSError as error:
            log.warning("%s: its index is missing: %s", self.path.name, error)
            return False
        return True

    def _add_images(self, topic: str, images: Image) -> int:
        """The first one's number."""
        first = self._counts[topic]
        for image in images:
            self._add(topic, encode_png(image, PNG_OPTIONS))
        return first

    def _add(self, topic: str, content: bytes | StoredArray) -> None:
        self._waiting.append((topic, self._counts[topic], content))
        self._counts[topic] += 1


class Channels:
    """The library's writer with all our channels."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self._begin(indexed=True)
        schemas = dict.fromkeys((FRAMES, PROMPTS), self._schema(IMAGE_SCHEMA, image_schema()))
        schemas[ARRAYS] = self._schema("sim_stream.StoredArray", array_schema())
        schemas |= {topic: self._schema(*named) for topic, named in line_schemas().items()}
        self._ids = {
            topic: self._writer.register_channel(topic, MessageEncoding.JSON, schema)
            for topic, schema in schemas.items()
        }

    def start(self, metadata: dict[str, str]) -> None:
        self._writer.start(library="sim_stream")
        self._writer.add_metadata("sim_stream", metadata)

    def add_image(self, topic: str, index: int, png: bytes, log_time_ns: int) -> None:
        sec, nsec = divmod(log_time_ns, 10**9)
        time = Time(sec=sec, nsec=nsec)
        image = CompressedImage(timestamp=time, frame_id="camera", data=png, format="png")
        self._add(topic, index, msgspec.json.encode(image), log_time_ns)

    def add_array(self, index: int, array: StoredArray, log_time_ns: int) -> None:
        self._add(ARRAYS, index, msgspec.json.encode(array), log_time_ns)

    def add_line(self, line: AnyLine, index: int, log_time_ns: int) -> None:
        self._add(topic_of(type(line)), index, encode_line(line), log_time_ns)

    def flush(self) -> None:
        """Writes what was added, as one chunk at once."""
        self._writer.flush()

    def finish(self, line: End, index: int, log_time_ns: int) -> None:
        """The last line and the file's end, at once."""
        self.add_line(line, index, log_time_ns)
        self._writer.finish()
        self._unwritten.flush()

    def drop_index(self) -> None:
        """After a chunk that could not be written: the index would name it, so there is none."""
        self._begin(indexed=False)

    def _begin(self, *, indexed: bool) -> None:
        self._unwritten = Unwritten(self._file)
        self._writer = Writer(
            cast(IO[bytes], self._unwritten),
            index_types=IndexType.ALL if indexed else IndexType.NONE,
            repeat_channels=indexed,
            repeat_schemas=indexed,
            use_statistics=indexed,
            use_summary_offsets=indexed,
        )

    def _schema(self, name: str, schema: bytes) -> int:
        identity: int = self._writer.register_schema(name, SchemaEncoding.JSONSchema, schema)
        return identity

    def _add(self, topic: str, index: int, data: bytes, log_time_ns: int) -> None:
        self._writer.add_message(
            self._ids[topic], log_time_ns, data, publish_time=log_time_ns, sequence=index
        )


class Unwritten:
    """What the library's writer takes for its file: gathers what it writes until it flushes."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def tell(self) -> int:
        return self._file.bytes + len(self._data)

    def flush(self) -> None:
        self._file.append(bytes(self._data))
        self._data.clear()


class Clock:
    """The wall clock by the recorder's stamps, from one line to the next."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._offset_ns = 0
        self._stamp = ""

    def set_by(self, line: AnyLine) -> None:
        if isinstance(line, Header):
            self.now_ns = round(datetime.fromisoformat(line.created).timestamp() * 1e6) * 1000
            self._offset_ns = self.now_ns - line.created_ns
            self._stamp = RECORDED_AT[line.by]
        elif isinstance(line, Shown) and line.frames:
            self.now_ns = line.frames[-1].stamps_ns[self._stamp] + self._offset_ns


def about(header: Header) -> dict[str, str]:
    """What MCAP tools show of a file at a glance; all of it is in the header's line, too."""
    kept = {
        "by": header.by,
        "sid": header.sid,
        "created": header.created,
        "model_id": header.info.spec.model_id,
        "weights_sha256": header.info.spec.weights_sha256,
    }
    return kept | {name: str(value) for name, value in header.options.items()}
