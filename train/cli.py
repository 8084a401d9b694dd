"""Arguments of every training subcommand. Knows nothing about how a stage works."""

from __future__ import annotations

import argparse
from pathlib import Path

from sim_stream import console
from sim_stream.config import get_preset
from sim_stream.console import OK, Parser
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from train import evaluate_cli, stages
from train.data import cli as data_cli


def pack(args: argparse.Namespace) -> None:
    try_folder("out", args.out)
    from train.build import Sources
    from train.pack import pack as write
    from train.pack import read_expects

    about = {"model_id": args.model_id, "made_by": args.made_by}
    if args.expects is not None:
        about["expects"] = read_expects(args.expects)
    sources = Sources(cache=Path(), init=args.init, runs=args.runs)
    manifest = write(get_preset(args.preset), sources, args.out, about)
    print(to_json(manifest["files"]))


def parser() -> Parser:
    top = Parser(prog="python -m train", description="Training of the models.")
    subcommands = top.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    data_cli.add_subcommands(subcommands)
    stages.add_subcommands(subcommands)
    evaluate_cli.add_subcommands(subcommands)
    text = "checkpoints -> weights folder"
    subcommand = subcommands.add_parser("pack", help=text, description=text)
    subcommand.set_defaults(run=pack)
    subcommand.add_argument("--preset", default="pocket")
    subcommand.add_argument("--runs", type=Path, required=True, help="folder of the stages' runs")
    subcommand.add_argument(
        "--init", type=Path, help="weights folder that adapters were trained on"
    )
    subcommand.add_argument("--out", type=Path, required=True, help="weights folder")
    subcommand.add_argument("--model-id", required=True)
    subcommand.add_argument(
        "--made-by", default="", help="machine, data and commands, for the manifest"
    )
    subcommand.add_argument(
        "--expects",
        type=Path,
        metavar="FILE",
        help="JSON for the manifest: what prompts, camera and actions the model expects "
        "(docs/weights.md)",
    )
    text = "a LoRA run's adapters -> a folder that PEFT and `serve --adapter` load"
    subcommand = subcommands.add_parser("export-adapter", help=text, description=text)
    subcommand.set_defaults(run=export)
    subcommand.add_argument("--preset", default="openviga")
    subcommand.add_argument("--runs", type=Path, required=True, help="folder of the stages' runs")
    subcommand.add_argument("--out", type=Path, required=True, help="folder of the adapter")
    return top


def export(args: argparse.Namespace) -> None:
    try_folder("out", args.out)
    from train.build import export_adapter
    from train.config import get_recipe

    preset = get_preset(args.preset)
    export_adapter(preset, args.runs, get_recipe(preset.name, "world-model").stage, args.out)
    print(args.out)


def main(argv: list[str] | None = None) -> int:
    return console.run(parser(), argv, _run, interrupted=_interrupted)


def _run(args: argparse.Namespace) -> int:
    args.run(args)
    return OK


def _interrupted(args: argparse.Namespace, interrupt: KeyboardInterrupt) -> tuple[int, str]:
    stays = str(interrupt) or "what was finished stays"
    return console.status_of(interrupt), f"interrupted: {stays}; the same command goes on"
