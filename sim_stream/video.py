"""Video files in: the paper's preprocessing. The way out is ``sim_stream.video_writer``.

Preprocessing (OpenViCA's preparation of BDD100K): rotation metadata applied, x0.5 bilinear,
centre crop, sampled at a fixed rate **by timestamp**. A sample at time t is the last frame whose
time is at most t plus half a source frame interval: the frame nearest to t (of two equally near,
the later), and each frame once where the rates are equal. Times count from the first frame that can
be decoded (``sim_stream.video_reader``). A variable rate keeps the rule with its average interval:
in a gap the last frame stays, as in a player.

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

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from sim_stream.clips import SAMPLE
from sim_stream.config import FrameSize
from sim_stream.errors import VideoError
from sim_stream.video_reader import Decoder, open_container, seek_origin
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

MAX_START_S = 1e9  # beyond any video, and what FFmpeg can count
FPS = 4
SIZE = FrameSize.square(256)


def read_clip(
    path: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    frames: int = 2,
    fps: float = FPS,
    size: FrameSize = SIZE,
) -> Image:
    """``frames`` consecutive samples from ``start_s`` on: uint8 (T, H, W, 3).

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
    path: str | os.PathLike[str], fps: float = FPS, size: FrameSize = SIZE, *, start_s: float = 0.0
) -> Iterator[tuple[float, Image]]:
    """Yields (timestamp in s from the first frame, uint8 (H, W, 3)) to the end.

    ``timestamp`` is the sampling time ``start_s + k / fps``. Everything before a damaged place is
    yielded, then VideoError is raised. Arguments are checked at the first ``next``.
    """
    if not 0 < fps < float("inf"):
        raise VideoError("fps", fps, "above 0")
    if not 0 <= start_s <= MAX_START_S:
        raise VideoError("start_s", start_s, f"0..{MAX_START_S:g} s")
    start = Fraction(start_s)
    origin = seek_origin(Path(path), start) if start > 1 else None
    with open_container(Path(path)) as container:
        decoder = Decoder(container)
        if origin is not None:
            decoder.seek(start, origin)
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
    lead_s: Fraction  # of the stream before its first frame: it began between key frames
    width: int
    height: int
    rotation: int

    def samples(self, fps: float) -> int:
        """How many frames ``iter_frames(path, fps)`` yields."""
        return int((self.end_s + self.half_interval_s) * Fraction(fps)) + 1


def inspect_video(path: str | os.PathLike[str]) -> VideoFacts:
    """Decodes every frame. Raises VideoError where the file cannot be read or is damaged."""
    times: list[Fraction] = []
    with open_container(Path(path)) as container:
        decoder = Decoder(container)
        for time, frame in decoder:
            if not times:
                to_rgb(frame, path)
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
        lead_s=decoder.lead,
        width=width,
        height=height,
        rotation=rotation,
    )


def preprocess(frame: VideoFrame, size: FrameSize, path: str | os.PathLike[str] = "frame") -> Image:
    """One decoded frame upright, x0.5 bilinear, centre crop: uint8 (H, W, 3)."""
    if frame.rotation % 90:
        raise VideoError("video", f"{path} rotated by {frame.rotation} degrees", "steps of 90")
    rgb = np.rot90(to_rgb(frame, path), k=frame.rotation // 90)
    height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
    if height < size.height or width < size.width:
        raise VideoError(
            "video",
            f"{path} of {rgb.shape[1]}x{rgb.shape[0]} pixels, {width}x{height} after x0.5",
            f"at least {2 * size.width}x{2 * size.height}, {size.width}x{size.height} after x0.5",
        )
    top, left = 2 * ((height - size.height) // 2), 2 * ((width - size.width) // 2)
    return halve(rgb[top : top + 2 * size.height, left : left + 2 * size.width])


def to_rgb(frame: VideoFrame, path: str | os.PathLike[str]) -> Image:
    """uint8 (height, width, 3) as stored. Raises VideoError for pixels that FFmpeg cannot turn."""
    try:
        return frame.to_ndarray(format="rgb24")  # type: ignore[return-value]
    except (FFmpegError, ValueError) as error:
        raise VideoError(
            "video", f"{path} with {frame.format.name} pixels", "pixels that become RGB"
        ) from error


def halve(rgb: Image) -> Image:
    """Bilinear x0.5 without alignment of corners: the rounded mean of 2x2 pixels.

    Exactly what ``interpolate(scale_factor=0.5, mode="bilinear")`` computes: every output pixel's
    centre lies between four input pixels. The last row or column of an odd size has no partner.
    """
    height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
    wide = rgb[:height, :width].astype(np.uint16)
    total = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _sample(
    decoder: Decoder, path: str | os.PathLike[str], start: Fraction, period: Fraction
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
