"""`python -m bridge VERB`: the command line of the simulators' side."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from bridge import choice
from bridge.driving import subcommand as driving
from bridge.policies.contract import POLICIES
from bridge.recording.drives import Drive
from bridge.recording.run import Recording
from bridge.scenarios import SEEDS, drive_seed
from sim_stream import console
from sim_stream.config import PRESETS
from sim_stream.connect_options import add_key_options
from sim_stream.console import OK, Parser
from sim_stream.errors import InvalidInput
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json

MAX_FRAMES, MAX_WORKERS = 1_000_000, 256
MIN_SIZE, MAX_SIZE = 16, 4096  # pixels


def parser() -> Parser:
    top = Parser(prog="python -m bridge", description=__doc__)
    subcommands = top.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    add_record(subcommands)
    add_drive(subcommands)
    return top


def add_record(subcommands: argparse._SubParsersAction[Parser]) -> None:
    record = subcommands.add_parser(
        "record",
        help="record simulated drives in BDD100K's folder layout",
        description="Record drives as videos/SPLIT/ID.mov and info/100k/SPLIT/ID.json. Drives that "
        "drives.jsonl lists already are skipped. The last line of output is one JSON line.",
    )
    choice.add_options(record, choice.ROAD_WORLDS)
    record.add_argument("--out", type=Path, required=True, help="folder to record into")
    record.add_argument("--drives", type=int, required=True, help="number of drives")
    record.add_argument("--frames", type=int, default=80, help="most frames of a drive, at 4 fps")
    record.add_argument("--seed", type=int, default=0, help="index of the first drive in its split")
    record.add_argument("--split", choices=sorted(SEEDS), required=True, help="train or val")
    stray_help = "leave the road now and then and come back, instead of ending where it is left"
    record.add_argument("--stray", action="store_true", help=stray_help)
    record.add_argument("--workers", type=int, default=2, help="simulator processes")
    record.add_argument("--size", type=int, default=512, help="side of the square frame, pixels")
    record.add_argument("--crf", type=int, default=12, help="x264's quality, lower is better")
    stopped = "what is recorded stays, the same command continues"
    record.set_defaults(run=run_record, stopped=stopped)


def add_drive(subcommands: argparse._SubParsersAction[Parser]) -> None:
    drive = subcommands.add_parser(
        "drive",
        help="drive a simulator and the neural simulator side by side, under one policy",
        description="Seed frames come from the simulator; then a policy that sees the predicted "
        "frames alone decides, and its actions go to both. Writes an MP4 of both worlds with their "
        "divergence, a PNG of it at a glance and a JSON line per frame, all beside --out. The last "
        "line of output is one JSON line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = drive.add_argument
    choice.add_options(drive, choice.WORLDS)
    policies = ", ".join(POLICIES)
    add("--policy", default="lane-keep", metavar="NAME", help=f"{policies}, or MODULE:CALLABLE")
    see_help = "whose frames the policy sees; `simulator` is the reference to compare with"
    add("--see", choices=("neural", "simulator"), default="neural", help=see_help)
    add("--split", choices=sorted(SEEDS), default="val", help="val: scenes unknown to training")
    add("--seed", type=int, default=0, metavar="N", help="index of the first drive in its split")
    add("--drives", type=int, default=1, metavar="N", help="one after the other, in one world")
    add("--frames", type=int, default=80, metavar="N", help="frames to predict, at 4 a second")
    lead_help = "frames that the simulator drives alone first; the last ones seed the prediction"
    add("--lead-in", type=int, default=8, metavar="N", help=lead_help)
    out_help = "MP4 to write; of several drives, each with its seed in the name"
    add("--out", type=Path, default=Path("drive.mp4"), metavar="FILE", help=out_help)
    add("--server", metavar="ADDRESS", help="a server that runs already, instead of our own")
    add_key_options(drive)
    own = drive.add_argument_group("our own server (`sim-stream serve` takes many more options)")
    own.add_argument("--preset", choices=sorted(PRESETS), default="pocket", help="the model")
    own.add_argument("--weights", type=Path, metavar="DIR", help="weights, if not those shipped")
    own.add_argument("--threads", type=int, default=1, metavar="N", help="of each of its stages")
    drive.set_defaults(run=run_drive, stopped="the files of the drive so far are complete")


def run_record(options: argparse.Namespace) -> dict[str, object]:
    for name, least in (("drives", 1), ("frames", 24), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise InvalidInput(f"--{name}", getattr(options, name), f"{least} or more")
    for name, most in (("frames", MAX_FRAMES), ("workers", MAX_WORKERS)):
        if getattr(options, name) > most:
            raise InvalidInput(f"--{name}", getattr(options, name), f"{most} at most")
    if options.size % 2 or not MIN_SIZE <= options.size <= MAX_SIZE:
        raise InvalidInput("--size", options.size, f"an even number, {MIN_SIZE}..{MAX_SIZE}")
    if not 0 <= options.crf <= 51:
        raise InvalidInput("--crf", options.crf, "0..51")
    try_folder("--out", options.out)
    open_world = choice.road_opener(options)
    of_world = options.world.replace(":", ".")  # a part of files' names
    drives = []
    for index in range(options.seed, options.seed + options.drives):
        seed = drive_seed(options.split, index)
        drives.append(
            Drive(
                drive_id=f"{of_world}{'-stray' * options.stray}-{seed:06d}",
                split=options.split,
                seed=seed,
                max_frames=options.frames,
                stray=options.stray,
            )
        )
    recording = Recording(
        root=options.out,
        open_world=lambda: open_world(options.size),
        workers=options.workers,
        crf=options.crf,
    )
    return {"split": options.split, **recording.run(drives)}


def run_drive(options: argparse.Namespace) -> dict[str, object]:
    names = (field.name for field in fields(driving.DriveOptions))
    chosen = driving.DriveOptions(**{name: getattr(options, name) for name in names})
    return driving.run(chosen, choice.opener(options))


def main(arguments: list[str] | None = None) -> int:
    return console.run(parser(), arguments, _run, interrupted=_interrupted)


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s")  # warnings, to stderr
    print(to_json(options.run(options)), flush=True)
    return OK


def _interrupted(options: argparse.Namespace, interrupt: KeyboardInterrupt) -> tuple[int, str]:
    return console.status_of(interrupt), f"stopped; {options.stopped}"


if __name__ == "__main__":
    sys.exit(main())
