"""Arguments of every training verb. Knows nothing about how a stage works."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from sim_stream.config import get_preset
from sim_stream.errors import SimStreamError
from sim_stream.plain_json import to_json
from train import evaluate_cli, stages
from train.data import cli as data_cli


def pack(args: argparse.Namespace) -> None:
    from train.build import Sources
    from train.pack import pack as write
    from train.pack import read_expects

    about = {"model_id": args.model_id, "made_by": args.made_by}
    if args.expects is not None:
        about["expects"] = read_expects(args.expects)
    sources = Sources(cache=Path(), init=args.init, runs=args.runs)
    manifest = write(get_preset(args.preset), sources, args.out, about)
    print(to_json(manifest["files"]))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m train", description="Training of the models.")
    verbs = top.add_subparsers(dest="verb", required=True)
    data_cli.add_verbs(verbs)
    stages.add_verbs(verbs)
    evaluate_cli.add_verbs(verbs)
    text = "checkpoints -> weights folder"
    verb = verbs.add_parser("pack", help=text, description=text)
    verb.set_defaults(run=pack)
    verb.add_argument("--preset", default="pocket")
    verb.add_argument("--runs", type=Path, required=True, help="folder of the stages' runs")
    verb.add_argument("--init", type=Path, help="weights folder that adapters were trained on")
    verb.add_argument("--out", type=Path, required=True, help="weights folder")
    verb.add_argument("--model-id", required=True)
    verb.add_argument("--made-by", default="", help="machine, data and commands, for the manifest")
    verb.add_argument(
        "--expects",
        type=Path,
        metavar="FILE",
        help="JSON for the manifest: what prompts, camera and actions the model expects "
        "(docs/weights.md)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8
    try:
        args.run(args)
    except SimStreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of a folder that cannot be written, a disk that is full
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        stays = str(error) or "what was finished stays"
        print(f"interrupted: {stays}; the same command goes on", file=sys.stderr)
        return 130
    return 0
