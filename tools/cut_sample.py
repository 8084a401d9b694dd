"""Cuts one of the package's clips out of a recorded drive: ``python -m tools.cut_sample --help``.

A clip is what `sim-stream demo` starts from: some seconds of 512x512 video at 4 fps, and the
action that led to each of its frames.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import numpy as np

from sim_stream import console
from sim_stream.console import Parser
from sim_stream.outputs import try_file, write_whole
from sim_stream.plain_json import to_json
from sim_stream.video_writer import Mp4Writer
from train.data.ego import actions_at, read_track

FPS = 4


def read(video: Path, first: int, frames: int) -> list[np.ndarray]:
    with av.open(str(video)) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return images[first : first + frames]


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--drives", type=Path, required=True, help="BDD100K's layout")
    parser.add_argument("--split", default="val")
    parser.add_argument("--id", required=True, help="of the drive")
    parser.add_argument("--first", type=int, default=0, help="first frame")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("sim_stream/assets/day.mp4"))
    return console.run(parser, None, cut)


def cut(args: argparse.Namespace) -> int:
    for path in (args.out, args.out.with_suffix(".json")):
        try_file("out", path)
    images = read(args.drives / "videos" / args.split / f"{args.id}.mov", args.first, args.frames)
    track, _ = read_track(args.drives / "info" / "100k" / args.split / f"{args.id}.json")
    times_s = np.arange(args.first + args.frames) / FPS
    actions = np.nan_to_num(actions_at(track, times_s, FPS)[args.first :])
    with Mp4Writer(args.out, fps=FPS, size=images[0].shape[:2]) as writer:
        for image in images:
            writer.write(image)
    rows = [[round(float(s), 4), round(float(y), 5)] for s, y in actions]
    about = {"fps": FPS, "drive": args.id, "first_frame": args.first, "actions": rows}
    write_whole(args.out.with_suffix(".json"), to_json(about, indent=1) + "\n")
    return console.OK


if __name__ == "__main__":
    sys.exit(main())
