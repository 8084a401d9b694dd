"""A recording as a sidecar, NAME.jsonl, with its frames as a video, its prompts and the requests'
arrays beside it.

Knows how the files are laid out, not what the lines say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.media_path import require_regular
from sim_stream.recording.append_file import AppendFile
from sim_stream.recording.arrays import kept_as, packed
from sim_stream.recording.bounds import LINE_BYTES
from sim_stream.recording.lines import AnyLine, End, Kept, Prompt, encode_line
from sim_stream.recording.pixels import WRITE_ERRORS, PixelWriter, VideoFormat, write_prompt
from sim_stream.video_writer import Image
from sim_stream.wire.framing import Arrays
from sim_stream.wire.messages import HelloOk

log = logging.getLogger(__name__)

SIDECAR, ARRAYS = ".jsonl", ".arrays"


class VideoFiles:
    """One session's files; see ``formats.Files``. Methods raise WRITE_ERRORS."""

    def __init__(self, folder: Path, name: str, info: HelloOk, *, form: VideoFormat) -> None:
        self.lossless = form.lossless
        self.video, self.arrays = f"{name}{form.suffix}", f"{name}{ARRAYS}"
        self._form = form
        self._folder, self._name = folder, name
        self._rate = Fraction(info.spec.fps_num, info.spec.fps_den)
        self._shape = info.spec.frame_shape
        self._prompts = 0
        self._pixels: PixelWriter | None = None
        self._arrays: AppendFile | None = None
        self._sidecar = SidecarWriter(folder / f"{name}{SIDECAR}")

    @property
    def path(self) -> Path:
        return self._sidecar.path

    @property
    def lines(self) -> int:
        return self._sidecar.lines

    def write_frames(self, images: Image) -> int:
        if self._pixels is None:
            if not len(images):
                return 0
            self._pixels = PixelWriter(
                self._folder / self.video, self._form, rate=self._rate, shape=self._shape
            )
        first = self._pixels.frames
        for image in images:
            self._pixels.write(image)
        return first

    def write_prompt(self, frames_THWC: Image) -> Prompt:
        path = self._folder / f"{self._name}.prompt-{self._prompts}.mkv"
        hashes = write_prompt(path, frames_THWC, rate=self._rate)
        self._prompts += 1
        return Prompt(file=path.name, sha256=hashes)

    def write_arrays(self, arrays: Arrays) -> list[Kept]:
        if self._arrays is None:
            if not arrays:
                return []
            self._arrays = AppendFile(self._folder / self.arrays, reserve=0)
        kept = []
        for name, array in arrays.items():
            data = packed(array)
            kept.append(kept_as(name, array, first=self._arrays.bytes, stored=len(data)))
            self._arrays.append(data)
        return kept

    def write_line(self, line: AnyLine) -> None:
        self._sidecar.write(line)

    def end(self, line: End) -> None:
        """The last line is written even where the video cannot be finished."""
        if self._arrays is not None:
            self._arrays.close()
        try:
            if self._pixels is not None:
                self._pixels.close()
        except WRITE_ERRORS as error:
            log.warning("%s: the video's end is missing: %s", self._name, error)
        self._sidecar.end(line)


class SidecarWriter:
    """Appends whole lines; what is written survives the process's death. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self.path = path
        self._file = AppendFile(path)

    def write(self, line: AnyLine) -> None:
        self._file.append(encode_line(line) + b"\n")
        self.lines += 1

    def end(self, line: End) -> None:
        """Writes the last line, on a full disk too, in place of a half-written one."""
        try:
            self._file.make_room()
            self.write(line)
        finally:
            self._file.close()


def raw_lines(path: Path) -> Iterator[bytes]:
    """What follows the last newline, or is longer than LINE_BYTES, is no line. Raises OSError."""
    require_regular(path)
    with path.open("rb") as file:
        while (line := file.readline(LINE_BYTES + 1)).endswith(b"\n"):
            yield line


def read_array(path: Path, kept: Kept) -> bytes:
    """As it is stored. Raises InvalidInput."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            file.seek(kept.first)
            data = file.read(kept.stored)
    except OSError as error:
        raise InvalidInput("recording", f"{path} ({error.strerror})", "its arrays") from error
    if len(data) != kept.stored:
        raise InvalidInput("recording", f"{path} (cut off before {kept.name})", "its arrays")
    return data
