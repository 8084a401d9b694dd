"""`python -m train data scan|sample|tokenize`: arguments only."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from sim_stream.config import FrameSize, get_preset
from sim_stream.text import one_line
from sim_stream.errors import InvalidInput
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from sim_stream.video import SIZE
from train.data.bdd100k import find_sources
from train.data.manifest import ScanRules, manifest_path, scan
from train.data.plan import Sampling, make_plan
from train.data.sample import sample
from train.data.split import Split

MAX_WORKERS = 1024
EPILOG = """\
A data set in BDD100K's layout (drives of `python -m bridge record` have it too), from files to ids:

  python -m train data scan     --root bdd100k --out lists
  python -m train data sample   --manifests lists --out cache --fps 4
  python -m train data tokenize --cache cache --runs runs

The paper's sets, without storing terabytes of pixels:

  images  sample --fps 0.2 --out images                      tokenizer training, 106 GB
  clips   sample --fps 4 --keep 3 --every 20 --out clips     video decoder, 330 GB
  ids     tokenize --manifests lists --out ids --fps 4       world model, 5.7 GB
  val-500 sample --splits val --limit 500 --fps 4 --out val500
"""


def run_scan(args: argparse.Namespace) -> None:
    check(args)
    try_folder("out", args.out)
    rules = ScanRules(size=args.size, max_gap_s=args.max_gap_s)
    for split in args.splits:  # a folder that is not there is said before hours of another
        find_sources(args.root, split, args.kind)
    for split in args.splits:
        found = scan(
            args.root, args.out, split, kind=args.kind, rules=rules, workers=args.workers
        )
        print(to_json(found) if args.json else lines_of(split, found))


def check(args: argparse.Namespace) -> None:
    """Raises InvalidInput for numbers that cannot be."""
    if not 0 <= args.workers <= MAX_WORKERS:
        raise InvalidInput("workers", args.workers, f"0..{MAX_WORKERS}")
    if getattr(args, "limit", None) is not None and args.limit < 1:
        raise InvalidInput("limit", args.limit, "1 or more")


def lines_of(split: str, found: dict[str, Any]) -> str:
    rejected = "".join(
        f"\n  rejected {one_line(k)}: {one_line(why)}" for k, why in found["rejected"].items()
    )
    return (
        f"{split}: {found['usable']} of {found['files']} files usable, {found['hours']} h, "
        f"{found['with_ego']} with ego motion; {found['manifest']}{rejected}"
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    return Sampling(fps=args.fps, size=args.size, keep=args.keep, every=args.every)


def run_sample(args: argparse.Namespace) -> None:
    check(args)
    try_folder("out", args.out)
    sampling = sampling_of(args)
    for split in args.splits:
        make_plan(manifest_path(args.manifests, split, args.kind), sampling, args.limit)
    for split in args.splits:
        manifest = manifest_path(args.manifests, split, args.kind)
        frames = sample(
            manifest, args.out / split, sampling, workers=args.workers, limit=args.limit
        )
        print(f"{args.out / split}: {frames} frames")


def run_tokenize(args: argparse.Namespace) -> None:
    from train.build import Sources, load_vq
    from train.data.tokenize import tokenize, tokenize_videos
    from train.parallel import join

    check(args)
    if bool(args.cache) == bool(args.manifests):
        raise InvalidInput("cache", args.cache, "either --cache or --manifests with --out")
    folder = args.cache or args.out
    if folder is None:
        raise InvalidInput("out", "none", "a folder for the ids")
    try_folder("out" if args.manifests else "cache", folder)
    for split in args.splits:
        if args.manifests:
            make_plan(manifest_path(args.manifests, split, args.kind), sampling_of(args), args.limit)
        else:
            Split.open(args.cache, split).images(slice(0, 1))
    sources = Sources(cache=folder, init=args.init, runs=args.runs)
    device = join(args.device).device
    model = load_vq(get_preset(args.preset), sources).to(device)
    batch = (1 if device.type == "cpu" else 16) if args.batch is None else args.batch
    if batch < 1:
        raise InvalidInput("batch", batch, "1 or more")
    for split in args.splits:
        if args.manifests:
            manifest = manifest_path(args.manifests, split, args.kind)
            options = {"workers": args.workers, "batch": batch, "limit": args.limit}
            frames = tokenize_videos(
                manifest, args.out / split, model, sampling_of(args), **options
            )
            print(f"{args.out / split}: {frames} frames")
            continue
        opened = Split.open(args.cache, split)
        print(tokenize(opened, model, batch=batch))
        if args.mirror and split == "train":
            print(tokenize(opened, model, mirrored=True, batch=batch))


def frame_size(text: str) -> FrameSize:
    """For argparse."""
    try:
        return FrameSize.parse(text)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: {error.allowed}") from error


def add_subcommands(top: Any) -> None:
    """The subcommand `data` with its three subcommands."""
    data = top.add_parser(
        "data", help="data sets -> frames, actions, ids", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = data.add_subparsers(dest="data_subcommand", required=True)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        subcommand: argparse.ArgumentParser = subcommands.add_parser(name, help=text, description=text)
        subcommand.set_defaults(run=run)
        subcommand.add_argument("--splits", nargs="+", default=["train", "val"], metavar="SPLIT")
        subcommand.add_argument("--kind", default="videos", choices=("videos", "images"))
        subcommand.add_argument(
            "--size",
            type=frame_size,
            default=SIZE,
            metavar="HEIGHTxWIDTH",
            help="pixels of the crop; one number for a square (default: %(default)s)",
        )
        subcommand.add_argument(
            "--workers", type=int, default=os.cpu_count() or 1, help="processes; 0: none"
        )
        return subcommand

    subcommand = add("scan", run_scan, "decode every file once and list what it holds")
    subcommand.add_argument("--root", type=Path, required=True, help="the data set (bdd100k)")
    subcommand.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    subcommand.add_argument("--max-gap-s", type=float, default=0.5, help="longest gap between frames")
    subcommand.add_argument("--json", action="store_true")

    subcommand = add("sample", run_sample, "manifests -> memory-mapped frames and actions")
    subcommand.add_argument("--manifests", type=Path, required=True, help="folder made by `scan`")
    subcommand.add_argument("--out", type=Path, required=True, help="cache folder")
    add_sampling(subcommand)

    subcommand = add("tokenize", run_tokenize, "ids of sampled frames, or of videos directly")
    subcommand.add_argument("--cache", type=Path, help="folder made by `sample`")
    subcommand.add_argument("--manifests", type=Path, help="folder made by `scan`: no pixels are kept")
    subcommand.add_argument("--out", type=Path, help="folder for ids made from videos")
    subcommand.add_argument("--runs", type=Path, help="folder with a trained tokenizer")
    subcommand.add_argument("--init", type=Path, help="weights folder, where no run has a tokenizer")
    subcommand.add_argument("--preset", default="pocket")
    subcommand.add_argument("--device", default="auto", help="auto, cpu, cuda")
    subcommand.add_argument("--batch", type=int, help="frames at once (GPU: 16; CPU: 1, for its caches)")
    subcommand.add_argument("--mirror", action="store_true", help="also train's mirror image")
    add_sampling(subcommand)


def add_sampling(subcommand: argparse.ArgumentParser) -> None:
    subcommand.add_argument("--fps", type=float, default=4.0, help="by timestamp")
    subcommand.add_argument("--keep", type=int, default=0, help="keep only so many samples ..")
    subcommand.add_argument("--every", type=int, default=0, help=".. of so many (clips)")
    subcommand.add_argument("--limit", type=int, help="at most so many files, evenly spread")
