"""Video files out: an MP4 that appears only whole, a PNG, and the mark of a given frame.

Knows nothing about where images come from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from sim_stream.errors import InvalidInput
from sim_stream.media_path import create_video
from sim_stream.outputs import part_of, said_plainly, try_file, write_whole

Image = NDArray[np.uint8]  # (height, width, 3), RGB

AMBER = (255, 176, 0)


class Mp4Writer:
    """Context manager that writes H.264 (yuv420p, CRF 16) and appears under its name only whole.

    Writes to a hidden neighbour, renames at the end, and removes it if the block raises.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: int = 4, size: tuple[int, int] = (256, 256)
    ) -> None:
        height, width = size
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise InvalidInput("size", size, "even height and width")
        self.path = Path(path)
        self._shape = (height, width, 3)
        try_file("out", self.path)
        self._partial = part_of(self.path)
        self._container = create_video(self._partial, "mp4")
        self._stream: Any = self._container.add_stream(
            "libx264", rate=fps, options={"crf": "16", "preset": "medium"}
        )
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"
        self._frames = 0
        self._open = True

    def write(self, image: Image) -> None:
        """Appends one frame, uint8 (height, width, 3). Raises InvalidInput, Unavailable."""
        if image.shape != self._shape or image.dtype != np.uint8:
            raise InvalidInput("frame", f"{image.dtype} {image.shape}", f"uint8 {self._shape}")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self._frames
        self._frames += 1
        with said_plainly(self.path):
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file and gives it its name. Idempotent.

        Raises InvalidInput if empty, Unavailable where it cannot be written.
        """
        if not self._open:
            return
        if not self._frames:
            self.abort()
            raise InvalidInput("frames", 0, "1 or more, to write a video")
        try:
            with said_plainly(self.path):
                self._container.mux(self._stream.encode())
                self._container.close()
                self._open = False
                self._partial.replace(self.path)
        finally:
            self.abort()  # what was not finished; a whole file has its own name by now

    def abort(self) -> None:
        """Ends without a file. Idempotent."""
        if self._open:
            self._open = False
            with suppress(OSError):  # a full disk takes no trailer either
                self._container.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_png(path: str | os.PathLike[str], image: Image) -> None:
    """Writes uint8 (height, width, 3) as a PNG, whole or not at all. Raises Unavailable."""
    write_whole(Path(path), encode_png(image))


def encode_png(image: Image, options: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """uint8 (height, width, 3) as a PNG. ``options``: those of FFmpeg's encoder."""
    codec: Any = av.CodecContext.create("png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt = "rgb24"
    codec.time_base = Fraction(1, 1)
    codec.options = dict(options)
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame.pts = 0
    packets = [*codec.encode(frame), *codec.encode()]
    return b"".join(bytes(packet) for packet in packets)


def mark_prompt(image: Image, *, border: int = 6, color: tuple[int, int, int] = AMBER) -> Image:
    """A copy with a coloured border: this frame was given, not predicted."""
    marked = np.empty_like(image)
    marked[:] = np.asarray(color, dtype=np.uint8)
    inner = slice(border, -border)
    marked[inner, inner] = image[inner, inner]
    return marked


def contact_sheet(images: Sequence[Image], *, columns: int = 8, gap: int = 4) -> Image:
    """Images of one size as a grid, row by row, on a dark ground."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(shape, 24, dtype=np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
