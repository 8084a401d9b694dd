"""A tiny data set in BDD100K's layout with what real ones hold: good files and faulty ones.

plain      30 fps, GPS once a second, turning left at 0.1 rad/s and 10 m/s
odd-rate   24,000/1,001 fps
rotated    a phone held upright: stored sideways, with a display matrix
corrupt    cut off in the middle
no-gps     without any location
no-info    without an info file
gps-gap    a hole of 2 s in its locations, a -1 and a repeated timestamp
gap        a second without frames
small      too small to crop
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZE = 32  # of the crop; videos are a little over twice as large
START_MS = 1_500_000_000_000
SPEED_MPS, YAW_RADPS = 10.0, 0.1
WIDTH, HEIGHT = 96, 72


def picture(t_s: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright bar that moves over a gradient, so that every time looks different."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 200, width).astype(np.uint8)
    x = int(20 * t_s) % (width - 8)
    image[height // 3 : 2 * height // 3, x : x + 8] = 255
    return image


def write_mov(
    path: Path,
    times_s: list[float],
    *,
    rate: Fraction,
    rotation: int = 0,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> None:
    """`size`: upright height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = size[::-1] if rotation % 180 else size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30_000)
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for time_s in times_s:
            image = np.rot90(picture(time_s, *size), -(rotation // 90))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 30_000), Fraction(1, 30_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def rows(seconds: float, every_s: float = 1.0) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": START_MS + round(1000 * t),
            "speed": SPEED_MPS,
            "course": float(-np.degrees(YAW_RADPS * t) % 360.0),
            "latitude": 45.0,
            "longitude": 7.0,
        }
        for t in np.arange(0.0, seconds + 1e-6, every_s)
    ]


def write_info(path: Path, locations: list[dict[str, Any]], seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "id": path.stem,
        "startTime": START_MS,
        "endTime": START_MS + round(1000 * seconds),
        "locations": locations,
        "gyro": [],
        "accelerometer": [],
    }
    path.write_text(json.dumps(content))


def frame_times(rate: Fraction, seconds: float) -> list[float]:
    return [float(i / rate) for i in range(int(seconds * rate))]


def build(root: Path, split: str = "train", seconds: float = 4.0) -> Path:
    """Writes all drives of the module's docstring; gives the root."""
    videos, infos = root / "videos" / split, root / "info" / "100k" / split
    plain, ntsc = Fraction(30), Fraction(24_000, 1_001)
    times = frame_times(plain, seconds)
    for name in ("plain", "no-gps", "no-info", "gps-gap"):
        write_mov(videos / f"{name}.mov", times, rate=plain)
    write_mov(videos / "odd-rate.mov", frame_times(ntsc, seconds), rate=ntsc)
    write_mov(videos / "rotated.mov", times, rate=plain, rotation=90)
    write_mov(videos / "small.mov", times, rate=plain, size=(54, 72))
    hole = [t for t in times if not 1.5 <= t < 2.5]
    write_mov(videos / "gap.mov", hole, rate=plain)
    whole = (videos / "plain.mov").read_bytes()
    (videos / "corrupt.mov").write_bytes(whole[: len(whole) // 2])
    for name in ("plain", "odd-rate", "rotated", "small", "gap", "corrupt"):
        write_info(infos / f"{name}.json", rows(seconds), seconds)
    write_info(infos / "no-gps.json", [], seconds)
    bad = rows(seconds, 0.5)
    bad = [row for i, row in enumerate(bad) if i not in (3, 4, 5)]  # 1.0 s .. 3.0 s
    bad[1] = {**bad[1], "speed": -1}
    write_info(infos / "gps-gap.json", [*bad, {**bad[0], "speed": 99.0}], seconds)
    return root
