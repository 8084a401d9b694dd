"""`python -m train evaluate|compare`: arguments only."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sim_stream.config import get_preset
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from train.data.split import Split
from train.data.work import write_text

EPILOG = """\
--protocol heldout   figures of a preset on drives that training never saw (default)
--protocol openviga  the paper's: T = 2, N = 14, 500 videos, Tables II-VI; report in --out

Networks of FID, CMMD, FVD and LPIPS are files that you supply (--networks FOLDER); a metric whose
file is missing is not computed and said so:
"""


def run(args: argparse.Namespace) -> None:
    if args.protocol == "heldout":
        heldout(args)
    else:
        openviga(args)


def heldout(args: argparse.Namespace) -> None:
    from sim_stream.models.checkpoints import weights_dir
    from sim_stream.pipelines.tokens.runtime import Runtime
    from train.evaluate import evaluate
    from train.pack import add_figures

    weights = weights_dir(args.preset, args.weights)
    if args.out:
        try_folder("out", args.out)
    if args.write:
        try_folder("weights", weights)
    split = Split.open(args.cache, args.split)
    split.images(slice(0, 1))
    ids_for(split, args)
    runtime = Runtime.load(args.preset, weights=args.weights, device=args.device)
    figures = evaluate(runtime, split)
    if args.write:
        add_figures(weights, figures)
    if args.out:
        write_text(args.out / "heldout.json", to_json(figures, indent=1) + "\n")
    print(to_json(figures))


def ids_for(split: Split, args: argparse.Namespace) -> None:
    """Held-out ids must be those of the weights that are measured."""
    from sim_stream.models.checkpoints import weights_dir
    from train.build import Sources, load_vq
    from train.data.ids import tokenizer_sha256

    weights = weights_dir(args.preset, args.weights)
    vq = load_vq(get_preset(args.preset), Sources(cache=args.cache, init=weights))
    split.ids(tokenizer_sha256(vq))


def openviga(args: argparse.Namespace) -> None:
    from sim_stream.models.checkpoints import weights_dir
    from train import tables
    from train.external import networks_folder
    from train.metrics.suite import NAMES, Suite
    from train.parallel import join
    from train.protocol import Models, Protocol, clips_of, evaluate, predicted_ids

    protocol = Protocol(
        videos=args.videos,
        prompt=args.prompt_frames,
        predicted=args.frames,
        top_k=tuple(args.k),
        networks=networks_folder(args.networks),
        metrics=tuple(args.metrics or NAMES),
    )
    out = args.out or Path("report")
    try_folder("out", out)
    split = Split.open(args.cache, args.split)
    images = Split.open(args.images, args.split) if args.images else None
    for part in (split, *([images] if images else [])):
        part.images(slice(0, 1))
    weights = weights_dir(args.preset, args.weights)
    models = Models.load(get_preset(args.preset), weights, join(args.device).device, protocol)
    suite = Suite.open(protocol.metrics, protocol.networks, models.device, protocol.predicted)
    for name, why in suite.refused.items():
        print(f"not computed: {name}: {why}", file=sys.stderr)
    found = evaluate(models, split, protocol, out, images)
    starts = clips_of(split, protocol)
    ids = {k: predicted_ids(models, split, starts, k, protocol, out) for k in protocol.top_k}
    write_text(out / "report.json", to_json(found, indent=1) + "\n")
    write_text(out / "report.txt", tables.text(found) + "\n")
    write_text(out / "report.html", tables.page(found, models, split, protocol, ids))
    shown = tables.text(found) + f"\n\n{out}/report.html has frames to look at"
    print(to_json(found) if args.json else shown)


def compare(args: argparse.Namespace) -> None:
    from train.compare import Contender, compare, text

    try_folder("out", args.out)
    split, preset = Split.open(args.cache, args.split), get_preset(args.preset)
    split.images(slice(0, 1))
    contenders = [Contender.load(preset, folder, args.device) for folder in args.weights]
    figures, page = compare(contenders, split, args.out)
    write_text(args.out / "compare.json", to_json(figures, indent=1) + "\n")
    write_text(args.out / "compare.html", page)
    shown = f"{text(figures)}\n\n{args.out}/compare.html has curves and frames to look at"
    print(to_json(figures) if args.json else shown)


def add_subcommands(top: Any) -> None:
    add_evaluate(top)
    about = "weights folders side by side on the same held-out drives"
    subcommand: argparse.ArgumentParser = top.add_parser("compare", help=about, description=about)
    subcommand.set_defaults(run=compare)
    subcommand.add_argument("--preset", default="pocket")
    subcommand.add_argument("--cache", type=Path, required=True, help="folder of `data sample`")
    subcommand.add_argument("--split", default="val")
    subcommand.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="weights folders"
    )
    subcommand.add_argument("--out", type=Path, required=True, help="folder for the report")
    subcommand.add_argument("--device", default="auto", help="auto, cpu, cuda")
    subcommand.add_argument("--json", action="store_true", help="JSON instead of a table")


def add_evaluate(top: Any) -> None:
    from train.external import FILES
    from train.metrics.suite import NAMES
    from train.protocol import TOP_K

    files = "".join(f"  {f.name}  {f.purpose} ({f.origin})\n" for f in FILES.values())
    subcommand: argparse.ArgumentParser = top.add_parser(
        "evaluate",
        help="figures of a weights folder",
        epilog=EPILOG + files,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommand.set_defaults(run=run)
    subcommand.add_argument("--protocol", default="heldout", choices=("heldout", "openviga"))
    subcommand.add_argument("--preset", default="pocket")
    subcommand.add_argument("--cache", type=Path, required=True, help="folder of `data sample`")
    subcommand.add_argument("--split", default="val")
    subcommand.add_argument(
        "--weights", type=Path, help="weights folder (default: the preset's own)"
    )
    subcommand.add_argument("--out", type=Path, help="folder for the report")
    subcommand.add_argument("--device", default="auto", help="auto, cpu, cuda")
    subcommand.add_argument("--write", action="store_true", help="heldout: also into the manifest")
    subcommand.add_argument("--networks", type=Path, help="folder of the networks' files")
    subcommand.add_argument("--images", type=Path, help="openviga: cache of validation images")
    subcommand.add_argument("--videos", type=int, default=500)
    subcommand.add_argument("--prompt-frames", type=int, default=2, help="T")
    subcommand.add_argument("--frames", type=int, default=14, help="N")
    subcommand.add_argument("--k", type=int, nargs="+", default=list(TOP_K), help="top-k values")
    subcommand.add_argument("--metrics", nargs="+", metavar="NAME", help=", ".join(NAMES))
    subcommand.add_argument("--json", action="store_true", help="openviga: JSON instead of tables")
