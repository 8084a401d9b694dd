"""``sim-stream doctor``: options in; the work is done by ``sim_stream.doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows what is installed, chosen and missing. Status 0 if the main job can "
        "run with the pocket preset, else 1."
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="check these pocket weights")
    parser.add_argument(
        "--engines",
        default="eager",
        metavar="WHAT",
        help="what `serve --engines` would be given: would it be used, and why (not)",
    )


def run(args: argparse.Namespace) -> int:
    from sim_stream import doctor

    return doctor.run(as_json=args.json, weights=args.weights, engines=args.engines)
