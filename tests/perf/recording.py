"""What writing a frame costs the recorder's thread and the disk, by format, in one run.

The frames are the shipped clip's, over and over; the formats take turns, so that a drift of the
machine's speed meets all.

python -m tests.perf.recording [--frames N] [--out FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sim_stream.plain_json import to_json
from sim_stream.recording.formats import FORMATS, Files, create_files
from sim_stream.recording.lines import End, Header, Shown
from sim_stream.recording.pixels import sha256_of
from sim_stream.video import SAMPLE, SIZE, read_clip
from sim_stream.video_writer import Image
from sim_stream.wire.messages import FrameInfo, HelloOk, Step
from sim_stream.wire.server.server import describe as describe_server
from tests.perf.machine import describe
from tests.wire.toy import toy_spec

CODES = 256
CLIP_FRAMES = 12


def begin(form: str, folder: Path, info: HelloOk) -> Files:
    files = create_files(form)(folder / form, "recording", info)
    files.write_line(
        Header(
            by="server",
            sid="s",
            created="2026-01-01T00:00:00.000000+00:00",
            created_ns=0,
            video=files.video,
            arrays=files.arrays,
            lossless=files.lossless,
            info=info,
        )
    )
    return files


def write(files: Files, step: int, image: Image) -> None:
    frame = FrameInfo(
        step=step,
        frame_id=step,
        lag_frames=0,
        final=True,
        stats={"accepted": [1.0] * CODES},
        stamps_ns={"srv_send": step * 250_000_000},
    )
    files.write_line(
        Shown(
            request=Step(sid="s", step=step),
            committed_step=step,
            frames=[frame],
            sha256=[sha256_of(image)],
            index=files.write_frames(image[None]),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    clip = read_clip(SAMPLE, frames=CLIP_FRAMES)
    info = describe_server(toy_spec(frame_shape=SIZE.shape), 1, 1, 60.0)
    report: dict[str, Any] = {"benchmark": "recording", "machine": describe()}
    times: dict[str, list[float]] = {form: [] for form in FORMATS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for form in FORMATS:
            (folder / form).mkdir()
        files = {form: begin(form, folder, info) for form in FORMATS}
        for step in range(args.frames):
            for form in FORMATS:
                start = time.perf_counter()
                write(files[form], step, clip[step % CLIP_FRAMES])
                times[form].append(1e3 * (time.perf_counter() - start))
        for form in FORMATS:
            files[form].end(End(reason="closed", complete=True))
            size = sum(path.stat().st_size for path in (folder / form).iterdir())
            p50, p95 = np.percentile(times[form], [50, 95])
            kilobytes = size / args.frames / 1e3
            print(f"{form:5} p50 {p50:5.2f} ms  p95 {p95:5.2f} ms  {kilobytes:6.1f} kB a frame")
            report[form] = {
                "p50_ms": round(p50, 2),
                "p95_ms": round(p95, 2),
                "kilobytes_a_frame": round(kilobytes, 1),
            }
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
