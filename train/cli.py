"""Arguments of every training verb. Knows nothing about how a stage works."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sim_stream.config import get_preset
from sim_stream.errors import SimStreamError
from sim_stream.models import checkpoints
from train.loop import LoopConfig, join_ranks


def loop_config(args: argparse.Namespace, **defaults: Any) -> LoopConfig:
    chosen = {"steps": args.steps, "minutes": args.minutes, "lr": args.lr, "seed": args.seed}
    values = {**defaults, **{k: v for k, v in chosen.items() if v is not None}}
    args.out.mkdir(parents=True, exist_ok=True)
    return LoopConfig(out=args.out, **values)


def data(args: argparse.Namespace) -> None:
    from train.data import build_cache

    for split in args.splits:
        print(f"{split}: {build_cache(args.drives, args.out, split)} frames")


def tokenizer(args: argparse.Namespace) -> None:
    from train.data import Split
    from train.tokenizer import FrameBatches, TokenizerStage

    config = loop_config(args, steps=100_000, lr=8e-4)
    rank, _ = join_ranks()
    batches = FrameBatches(Split.open(args.cache, "train"), args.batch or 3, config.seed, rank)
    stage = TokenizerStage(get_preset(args.preset).vq, batches, config)
    stage.resume()
    stage.run(Split.open(args.cache, "val"))


def tokenize(args: argparse.Namespace) -> None:
    from train.data import Split
    from train.pack import load_vq
    from train.world_model import tokenize as write_ids

    model = load_vq(get_preset(args.preset), args.runs)
    for split in args.splits:
        print(write_ids(Split.open(args.cache, split), model))
    if args.mirror and "train" in args.splits:
        print(write_ids(Split.open(args.cache, "train"), model, mirrored=True))


def world_model(args: argparse.Namespace) -> None:
    from train.data import Split
    from train.pack import load_vq
    from train.world_model import Sequences, WorldModelStage

    preset = get_preset(args.preset)
    config = loop_config(
        args, steps=100_000, lr=3e-3, warmup_steps=50, weight_decay=0.05, muon="layers."
    )
    rank, _ = join_ranks()
    frames, batch = preset.session.context_frames, args.batch or 3
    train = Sequences(Split.open(args.cache, "train"), preset, frames, batch, config.seed, rank)
    codebook = load_vq(preset, args.runs).quantize.embedding.weight
    start = None
    if args.init:
        start = checkpoints.read_part(
            args.init, "world_model", checkpoints.read_manifest(args.init)
        )
    stage = WorldModelStage(preset, train, config, codebook, start)
    stage.trainer.resume()
    stage.run(Sequences(Split.open(args.cache, "val"), preset, frames, batch, 0))


def video_decoder(args: argparse.Namespace) -> None:
    from train.data import Split
    from train.pack import load_vq
    from train.video_decoder import Clips, VideoDecoderStage

    preset = get_preset(args.preset)
    config = loop_config(args, steps=100_000, lr=3e-4)
    rank, _ = join_ranks()
    clips = Clips(Split.open(args.cache, "train"), args.batch or 2, config.seed, rank)
    vq = load_vq(preset, args.runs)
    stage = VideoDecoderStage(vq, preset.video_decoder, clips, config)
    stage.trainer.resume()
    stage.run(Clips(Split.open(args.cache, "val"), 1, 0))


def pack(args: argparse.Namespace) -> None:
    from train.pack import pack as write

    about = {"model_id": args.model_id, "made_by": args.made_by}
    manifest = write(get_preset(args.preset), args.runs, args.out, about)
    print(json.dumps(manifest["files"]))


def evaluate(args: argparse.Namespace) -> None:
    from sim_stream.runtime.runtime import Runtime
    from train.data import Split
    from train.evaluate import evaluate as measure
    from train.pack import add_figures

    runtime = Runtime.load(args.preset, weights=args.weights)
    figures = measure(runtime, Split.open(args.cache, "val"))
    if args.write:
        add_figures(args.weights, figures)
    print(json.dumps(figures))


Verb = Callable[[argparse.Namespace], None]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m train", description="Training of the models.")
    verbs = top.add_subparsers(dest="verb", required=True)

    def add(name: str, run: Verb, text: str, *paths: tuple[str, str]) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--preset", default="pocket")
        for flag, meaning in paths:
            verb.add_argument(flag, type=Path, required=True, help=meaning)
        verb.set_defaults(run=run)
        return verb

    cache = ("--cache", "folder made by `data`")
    runs = ("--runs", "folder that holds the stages' folders tokenizer, world-model, ...")
    out = ("--out", "folder for checkpoints and log.jsonl")
    drives = ("--drives", "recorded drives in BDD100K's layout")
    ids = add("tokenize", tokenize, "frames -> ids, with the trained tokenizer", cache, runs)
    ids.add_argument("--mirror", action="store_true", help="also the train split's mirror image")
    for verb in (
        add("data", data, "drives -> memory-mapped frames", drives, ("--out", "cache folder")),
        ids,
    ):
        verb.add_argument("--splits", nargs="+", default=["train", "val"])
    wm = add("world-model", world_model, "stage 2: next token, with actions", cache, runs, out)
    wm.add_argument("--init", type=Path, help="weights folder to go on from")
    for verb in (
        add("tokenizer", tokenizer, "stage 1: VQModel on single frames", cache, out),
        wm,
        add("video-decoder", video_decoder, "stage 3: three-frame decoder", cache, runs, out),
    ):
        verb.add_argument("--minutes", type=float, help="time budget; the schedule fits into it")
        verb.add_argument("--steps", type=int, help="step budget")
        verb.add_argument("--batch", type=int, help="samples a step and rank")
        verb.add_argument("--lr", type=float, help="peak learning rate")
        verb.add_argument("--seed", type=int)
    verb = add("pack", pack, "checkpoints -> weights folder", runs, ("--out", "weights folder"))
    verb.add_argument("--model-id", required=True)
    verb.add_argument("--made-by", default="", help="machine, data and commands, for the manifest")
    weights = ("--weights", "weights folder made by `pack`")
    verb = add("evaluate", evaluate, "held-out figures of a weights folder", cache, weights)
    verb.add_argument("--write", action="store_true", help="put them into the manifest")
    return top


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    torch.manual_seed(0)
    try:
        args.run(args)
    except SimStreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the last checkpoint stays", file=sys.stderr)
        return 130
    return 0
