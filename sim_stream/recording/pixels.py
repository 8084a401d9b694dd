"""The frames of a recording as a video that is readable wherever its writing ended.

FFV1 in Matroska is lossless: the same pixels come back. H.264 in fragmented MP4 is for looking.
Both leave every frame in a cluster or fragment of its own, so that a dead process costs the last
one at most. Knows no sessions and no threads.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from sim_stream.errors import InvalidInput
from sim_stream.media_path import create_video, open_video
from sim_stream.recording.bounds import FRAME_PIXELS, Shape
from sim_stream.video_writer import Image

# What writing a video may fail with: a full disk, a folder that went away.
WRITE_ERRORS = (OSError, FFmpegError)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """How frames are kept. FFV1's RGB is `bgr0`; `yuv420p` is what every player shows."""

    suffix: str
    container: str
    codec: str
    decoder: str
    pix_fmt: str
    lossless: bool
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


VIDEO_FORMATS = MappingProxyType(
    {
        "ffv1": VideoFormat(
            suffix=".mkv",
            container="matroska",
            codec="ffv1",
            decoder="ffv1",
            pix_fmt="bgr0",
            lossless=True,
            codec_options={"level": "3", "g": "1", "slicecrc": "1"},
            container_options={"cluster_time_limit": "1", "flush_packets": "1"},
        ),
        "mp4": VideoFormat(
            suffix=".mp4",
            container="mp4",
            codec="libx264",
            decoder="h264",
            pix_fmt="yuv420p",
            lossless=False,
            codec_options={"crf": "16", "preset": "veryfast", "tune": "zerolatency"},
            container_options={
                "movflags": "frag_every_frame+empty_moov+default_base_moof",
                "flush_packets": "1",
            },
        ),
    }
)


def sha256_of(image: Image) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


class PixelWriter:
    """Appends frames, uint8 [H, W, 3]. Methods raise one of ``WRITE_ERRORS``."""

    def __init__(
        self, path: Path, form: VideoFormat, *, rate: Fraction, shape: tuple[int, ...]
    ) -> None:
        self.path = path
        self.frames = 0
        self._container = create_video(path, form.container, form.container_options)
        stream: Any = self._container.add_stream(form.codec, rate=rate, options=form.codec_options)
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = form.pix_fmt
        stream.codec_context.thread_count = 1  # the models next door want the cores
        self._stream = stream
        self._open = True

    def write(self, image: Image) -> int:
        """The frame's index in the video."""
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))
        self.frames += 1
        return frame.pts

    def close(self) -> None:
        """Idempotent, whatever it raised."""
        if self._open:
            self._open = False
            try:
                self._container.mux(self._stream.encode())
            finally:
                self._container.close()


def read_pixels(path: Path, shape: Shape | None = None) -> Iterator[Image]:
    """The frames of a video, as far as it can be read; nothing if it cannot be opened.

    Only what ``PixelWriter`` writes is decoded, and of other frames than [H, W, 3] nothing;
    ``shape`` None takes any up to FRAME_PIXELS.
    """
    form = next((one for one in VIDEO_FORMATS.values() if one.suffix == path.suffix), None)
    if form is None:
        return
    pixels = 2 * FRAME_PIXELS if shape is None else _room(*shape[:2])
    decoder = form.decoder
    try:
        with open_video(path, max_pixels=pixels, form=form.container, codec=decoder) as container:
            if not container.streams.video:
                return
            stream = container.streams.video[0]
            context = stream.codec_context
            if context is None or context.name != decoder:
                return
            context.thread_count = 1  # the models next door want the cores
            if shape is not None and (context.height, context.width) != shape[:2]:
                return
            for frame in container.decode(stream):
                image: Image = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]
                if frame.is_corrupt or shape not in (None, image.shape):
                    return
                yield image
    except (*WRITE_ERRORS, ValueError):
        return


def _room(height: int, width: int) -> int:
    """The pixels of such a frame as a decoder counts them, in whole blocks."""
    return -(-height // 64) * 64 * -(-width // 64) * 64


def decode_png(data: bytes, shape: Shape | None = None) -> Image:
    """One picture. Raises InvalidInput, one of WRITE_ERRORS.

    ``shape``: [H, W, 3] that it must have; None takes any up to FRAME_PIXELS.
    """
    size = struct.unpack_from(">II", data, len(PNG_SIGNATURE) + 8) if len(data) > 32 else (0, 0)
    width, height = size
    if shape not in (None, (height, width, 3)) or not 0 < width * height <= FRAME_PIXELS:
        expected = f"{FRAME_PIXELS} pixels at most" if shape is None else f"{shape[1]}x{shape[0]}"
        raise InvalidInput("picture", f"{width}x{height}", expected)
    codec: Any = av.CodecContext.create("png", "r")
    codec.thread_count = 1
    codec.options = {"max_pixels": str(_room(height, width))}
    frames = codec.decode(Packet(_critical_chunks(data))) + codec.decode(None)
    if len(frames) != 1:
        raise InvalidInput("picture", f"{len(frames)} pictures", "one")
    return frames[0].to_ndarray(format="rgb24")  # type: ignore[no-any-return]


def _critical_chunks(data: bytes) -> bytes:
    """A PNG without texts and profiles, which unpack to any size and hold no pixel."""
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if not kind[0] & 0x20:  # an upper-case letter: without it there is no picture
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def write_prompt(path: Path, frames_THWC: Image, *, rate: Fraction) -> list[str]:
    """Writes frames losslessly, whole or not at all; the sha256 of each."""
    partial = path.with_name(f".{path.name}.part")
    writer = PixelWriter(partial, VIDEO_FORMATS["ffv1"], rate=rate, shape=frames_THWC.shape[1:])
    try:
        for image in frames_THWC:
            writer.write(image)
        writer.close()
        partial.replace(path)
    except WRITE_ERRORS:
        partial.unlink(missing_ok=True)
        raise
    return [sha256_of(image) for image in frames_THWC]
