"""``sim-stream demo``: options in; server and client are imported only when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from sim_stream.cli.options import add_model_options, add_prompt, add_record, model_options


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Starts a server, sends two prompt frames, steps it under a short script (straight, "
        "a lane to the left, straight, a lane to the right, brake) at the pace of a simulator and "
        "writes the frames as an MP4. The last line on stdout is a JSON summary."
    )
    add_model_options(parser)
    add_prompt(parser)
    parser.add_argument(
        "--frames", type=int, default=48, metavar="N", help="frames to predict (default: 48)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo.mp4"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="contact sheet (default: beside --out, .png)"
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=4.0,
        metavar="FPS",
        help="steps a second; 0 runs as fast as it can (default: 4)",
    )
    add_record(parser, "also record the session into this folder, for `replay`")


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    from sim_stream import demo

    return demo.run(
        demo.DemoOptions(
            **model_options(args),
            clip=args.clip,
            video=args.video,
            start_s=args.start_s,
            frames=args.frames,
            seed=args.seed,
            out=args.out,
            sheet=args.sheet,
            pace_fps=args.pace,
            record=args.record,
            record_format=args.record_format,
        )
    )
