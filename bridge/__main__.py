"""`python -m bridge VERB`: the command line of the simulators' side."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bridge.metadrive.world import MetaDriveWorld
from bridge.painted import PaintedWorld
from bridge.recording.drives import Drive
from bridge.recording.run import Recording
from bridge.scenarios import SEEDS, drive_seed
from bridge.worlds import RoadWorld
from sim_stream.errors import InvalidInput, SimStreamError

WORLDS: dict[str, Callable[[int], RoadWorld]] = {
    "metadrive": lambda size_px: MetaDriveWorld(size_px=size_px),
    "painted": lambda size_px: PaintedWorld(size_px=size_px),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bridge", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    record = verbs.add_parser(
        "record",
        help="record simulated drives in BDD100K's folder layout",
        description="Record drives as videos/SPLIT/ID.mov and info/100k/SPLIT/ID.json. Drives that "
        "drives.jsonl lists already are skipped. The last line of output is one JSON line.",
    )
    record.add_argument("--world", choices=sorted(WORLDS), default="metadrive", help="simulator")
    record.add_argument("--out", type=Path, required=True, help="folder to record into")
    record.add_argument("--drives", type=int, required=True, help="number of drives")
    record.add_argument("--frames", type=int, default=80, help="most frames of a drive, at 4 fps")
    record.add_argument("--seed", type=int, default=0, help="index of the first drive in its split")
    record.add_argument("--split", choices=sorted(SEEDS), required=True, help="train or val")
    record.add_argument("--workers", type=int, default=2, help="simulator processes")
    record.add_argument("--size", type=int, default=512, help="side of the square frame, pixels")
    record.add_argument("--crf", type=int, default=12, help="x264's quality, lower is better")
    record.set_defaults(run=run_record)
    return top


def run_record(options: argparse.Namespace) -> dict[str, object]:
    for name, least in (("drives", 1), ("frames", 24), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise InvalidInput(f"--{name}", getattr(options, name), f"{least} or more")
    drives = []
    for index in range(options.seed, options.seed + options.drives):
        seed = drive_seed(options.split, index)
        drive_id = f"{options.world}-{seed:06d}"
        drives.append(
            Drive(drive_id=drive_id, split=options.split, seed=seed, max_frames=options.frames)
        )
    recording = Recording(
        root=options.out,
        open_world=lambda: WORLDS[options.world](options.size),
        workers=options.workers,
        crf=options.crf,
    )
    return {"split": options.split, **recording.run(drives)}


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        print(json.dumps(options.run(options)), flush=True)
    except SimStreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is recorded stays, the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # A shell starts background jobs with SIGINT ignored; SIGTERM must end them just as cleanly.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
