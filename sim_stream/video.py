"""Video files in: the paper's preprocessing. The way out is ``sim_stream.video_writer``.

Preprocessing (OpenViCA's preparation of BDD100K): rotation metadata applied, x0.5 bilinear,
centre crop, sampled at a fixed rate **by timestamp**. A sample at time t is the last frame whose
time is at most t plus half a source frame interval: the frame nearest to t (of two equally near,
the later), and each frame once where the rates are equal. Times count from the stream's start. A
variable rate keeps the rule with its average interval: in a gap the last frame stays, as in a
player.

Knows nothing about models or tensors. Mirrored (not rotated) display matrices are not applied, and
pixels are taken as square.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sim_stream.clips import SAMPLE
from sim_stream.errors import VideoError
from sim_stream.video_writer import Image, Mp4Writer, mark_prompt, write_png

__all__ = [
    "FPS",
    "SAMPLE",
    "SIZE",
    "Image",
    "Mp4Writer",
    "VideoFacts",
    "halve",
    "inspect_video",
    "iter_frames",
    "mark_prompt",
    "preprocess",
    "read_clip",
    "write_png",
]

FPS = 4
SIZE = 256


def read_clip(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    frames: int = 2,
    fps: float = FPS,
    size: int = SIZE,
) -> Image:
    """``frames`` consecutive samples from ``start_s`` on: uint8 (T, size, size, 3).

    Frames before a damaged place are used when there are enough of them. Raises VideoError.
    """
    if frames < 1:
        raise VideoError("frames", frames, "1 or more")
    clip: list[Image] = []
    source = iter_frames(path, fps, size, start_s=start_s)
    try:
        for _, image in source:
            clip.append(image)
            if len(clip) == frames:
                return np.stack(clip)
    finally:
        source.close()  # type: ignore[attr-defined]  # a generator: frees the decoder's file now
    raise VideoError(
        "video",
        f"{path} ({len(clip)} frames at {fps:g} fps from {start_s:g} s on)",
        f"{frames} frames or more",
    )


def iter_frames(
    path: str | os.PathLike[str], fps: float = FPS, size: int = SIZE, *, start_s: float = 0.0
) -> Iterator[tuple[float, Image]]:
    """Yields (timestamp in s from the stream's first frame, uint8 (size, size, 3)) to the end.

    ``timestamp`` is the sampling time ``start_s + k / fps``. Everything before a damaged place is
    yielded, then VideoError is raised. Arguments are checked at the first ``next``.
    """
    if not fps > 0:
        raise VideoError("fps", fps, "above 0")
    if not 0 <= start_s < float("inf"):
        raise VideoError("start_s", start_s, "0 s or later")
    start = Fraction(start_s)
    seek = start > 1 and _seek_lands_before(Path(path), start)
    with _open(Path(path)) as container:
        decoder = _Decoder(container)
        if seek:
            decoder.seek(start)
        samples = _sample(decoder, path, start, 1 / Fraction(fps))
        for timestamp, frame in samples:
            yield float(timestamp), preprocess(frame, size, path)


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What decoding every frame of an undamaged video found. Width and height are upright."""

    frames: int
    end_s: Fraction  # time of the last frame
    half_interval_s: Fraction
    longest_gap_s: float
    width: int
    height: int
    rotation: int

    def samples(self, fps: float) -> int:
        """How many frames ``iter_frames(path, fps)`` yields."""
        return int((self.end_s + self.half_interval_s) * Fraction(fps)) + 1


def inspect_video(path: str | os.PathLike[str]) -> VideoFacts:
    """Decodes every frame. Raises VideoError where the file cannot be read or is damaged."""
    times: list[Fraction] = []
    with _open(Path(path)) as container:
        decoder = _Decoder(container)
        for time, frame in decoder:
            times.append(time)
            width, height, rotation = frame.width, frame.height, frame.rotation
        damage = decoder.damage or decoder.missing_tail(times[-1] if times else Fraction(0))
    if damage or not times:
        raise VideoError("video", f"{path} (damaged: {damage or 'no frame'})", "an undamaged video")
    if rotation % 180:
        width, height = height, width
    gaps = [b - a for a, b in pairwise(times)]
    return VideoFacts(
        frames=len(times),
        end_s=times[-1],
        half_interval_s=decoder.half_interval,
        longest_gap_s=float(max(gaps, default=0)),
        width=width,
        height=height,
        rotation=rotation,
    )


def preprocess(frame: VideoFrame, size: int, path: str | os.PathLike[str] = "frame") -> Image:
    """One decoded frame upright, x0.5 bilinear, centre crop: uint8 (size, size, 3)."""
    if frame.rotation % 90:
        raise VideoError("video", f"{path} rotated by {frame.rotation} degrees", "steps of 90")
    decoded: Image = frame.to_ndarray(format="rgb24")  # type: ignore[assignment]
    rgb = np.rot90(decoded, k=frame.rotation // 90)
    height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
    if min(height, width) < size:
        raise VideoError(
            "video",
            f"{path} of {rgb.shape[1]}x{rgb.shape[0]} pixels, {width}x{height} after x0.5",
            f"at least {2 * size}x{2 * size}, {size}x{size} after x0.5",
        )
    top, left = 2 * ((height - size) // 2), 2 * ((width - size) // 2)
    return halve(rgb[top : top + 2 * size, left : left + 2 * size])


def halve(rgb: Image) -> Image:
    """Bilinear x0.5 without alignment of corners: the rounded mean of 2x2 pixels.

    Exactly what ``interpolate(scale_factor=0.5, mode="bilinear")`` computes: every output pixel's
    centre lies between four input pixels. The last row or column of an odd size has no partner.
    """
    height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    wide = rgb[:height, :width].astype(np.uint16)
    total = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _open(path: Path) -> InputContainer:
    """The container, with at least one video stream. Raises VideoError."""
    if not path.exists():
        raise VideoError("video", f"{path} (does not exist)", "a video file")
    if path.is_dir():
        raise VideoError("video", f"{path} (a directory)", "a video file")
    if path.stat().st_size == 0:
        raise VideoError("video", f"{path} (empty, 0 bytes)", "a video file")
    try:
        container = av.open(str(path), mode="r")
    except (FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise VideoError(
            "video", f"{path} (not a video, or cut short: {reason})", "a video file"
        ) from error
    if not container.streams.video:
        container.close()
        raise VideoError("video", f"{path} (no video stream)", "a file with a video stream")
    return container


def _sample(
    decoder: _Decoder, path: str | os.PathLike[str], start: Fraction, period: Fraction
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Frames at start, start + period, ... by the rule in the module's docstring."""
    half = decoder.half_interval
    held: VideoFrame | None = None
    end = Fraction(0)
    target = start
    for time, frame in decoder:
        while held is not None and target + half < time:
            yield target, held
            target += period
        held, end = frame, time
    while held is not None and target <= end + half:
        yield target, held
        target += period
    damage = decoder.damage or decoder.missing_tail(end)
    if damage:
        raise VideoError("video", f"{path} (damaged: {damage})", "an undamaged video")
    if target == start:
        shown = int(start) if start == int(start) else round(float(start), 5)
        raise VideoError("start_s", shown, f"before the end at {float(end):g} s")


def _seek_lands_before(path: Path, start: Fraction) -> bool:
    """Whether seeking works in this file; formats without an index land late or nowhere.

    Tried on a file handle of its own: after a failed try some demuxers cannot go back.
    """
    with _open(path) as container:
        decoder = _Decoder(container)
        if not decoder.seek(start):
            return False
        first = next(iter(decoder), None)
        return first is not None and first[0] <= start


class _Decoder:
    """The first video stream's frames with their times in s from its start, up to any damage."""

    def __init__(self, container: InputContainer) -> None:
        self.damage: str | None = None
        self._container = container
        self._stream: VideoStream = container.streams.video[0]
        self._time_base = self._stream.time_base or Fraction(1, av.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.half_interval = 1 / Fraction(rate) / 2 if rate else Fraction(0)
        start = self._stream.start_time
        self._origin = None if start is None else start * self._time_base

    def seek(self, time: Fraction) -> bool:
        """Goes to the last key frame at or before ``time``; False if the format cannot."""
        if self._origin is None:
            return False
        try:
            ticks = int((time + self._origin) / self._time_base)
            self._container.seek(ticks, stream=self._stream)
        except FFmpegError:
            return False
        return True

    def __iter__(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        try:
            for frame in self._container.decode(self._stream):
                if frame.is_corrupt:
                    self.damage = "a frame with missing data"
                    return
                stamp = frame.pts if frame.pts is not None else frame.dts
                if stamp is None:
                    self.damage = "a frame without a timestamp"
                    return
                time = stamp * Fraction(frame.time_base or self._time_base)
                if self._origin is None:
                    self._origin = time
                yield time - self._origin, frame
        except FFmpegError as error:
            self.damage = error.strerror or type(error).__name__

    def missing_tail(self, end: Fraction) -> str | None:
        """What is missing if frames end clearly before the duration that the index promises.

        One second of slack: formats count edit lists and the last frame's length differently.
        """
        promised = (self._stream.duration or 0) * self._time_base
        if end + 2 * self.half_interval + 1 >= promised:
            return None
        return f"frames end at {float(end):.2f} s of {float(promised):.2f} s"
