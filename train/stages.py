"""`python -m train tokenizer|world-model|video-decoder`: from arguments to a run, or a dry run."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from sim_stream.config import Preset, get_preset
from sim_stream.errors import InvalidInput
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from train import build
from train.config import (
    ABLATIONS,
    LoopConfig,
    Recipe,
    WorldModelTraining,
    get_ablation,
    get_recipe,
)
from train.estimate import check_memory, named_peak, peak_flops, state_bytes
from train.loop import Trainer
from train.parallel import Ranks, join, leave

STAGES = {
    "tokenizer": "stage 1: tokenizer and image decoder on frames (eq. 1-7)",
    "world-model": "stage 2: next image id; adapters on the 7B model, all weights of small ones",
    "video-decoder": "stage 3: three-frame decoder on clips (eq. 8)",
}
# Options that are LoopConfig's, with their help.
LOOP = {
    "steps": "step budget",
    "minutes": "time budget; the schedule fits into it",
    "batch": "samples of a step over all ranks and micro-batches",
    "accumulate": "micro-batches of a step",
    "lr": "peak learning rate",
    "final_lr": "learning rate after the cosine",
    "warmup_steps": "steps of linear warm-up",
    "ema_decay": "of the averaged weights",
    "clip_norm": "largest gradient norm",
    "precision": "bf16 (autocast) or fp32",
    "parallel": "ddp or fsdp (world model)",
    "log_every": "steps",
    "save_every": "steps",
    "keep": "checkpoints that are kept",
    "seed": "of everything that is drawn",
}
LOSSES = ("l1", "l2", "perceptual", "codebook", "ssl", "gan", "edge", "texture")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The preset's recipe with the options' changes. Raises InvalidInput."""
    recipe = get_recipe(args.preset, args.subcommand)
    stage = recipe.stage
    if isinstance(stage, WorldModelTraining):
        shares = {name: getattr(args, name) for name in ("scheduled_sampling", "token_corruption")}
        given = {name: share for name, share in shares.items() if share is not None}
        return replace(recipe, stage=replace(stage, **given))
    if getattr(args, "ablation", None):
        stage = get_ablation(args.ablation)
    if args.subcommand == "tokenizer" and args.decoder_only:
        stage = stage.of_decoder()
    elif args.subcommand == "tokenizer" and args.continued:
        stage = replace(stage, plain_share=0.0)
    known = {f.name for f in fields(stage.losses)}
    changes = dict(parse_loss(text, known) for text in args.loss)
    return replace(recipe, stage=replace(stage, losses=replace(stage.losses, **changes)))


def parse_loss(text: str, known: set[str]) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in LOSSES or name not in known:
        raise InvalidInput("loss", text, f"NAME=WEIGHT with NAME one of {', '.join(LOSSES)}")
    try:
        return name, float(value)
    except ValueError as error:
        raise InvalidInput("loss", text, "NAME=WEIGHT, a number") from error


def loop_of(args: argparse.Namespace, recipe: Recipe) -> LoopConfig:
    given = {name: getattr(args, name) for name in LOOP if getattr(args, name) is not None}
    out = args.out or Path("runs") / args.subcommand
    return LoopConfig(out=out, tensorboard=args.tensorboard, **{**recipe.loop, **given})


def run(args: argparse.Namespace) -> None:
    preset, recipe = get_preset(args.preset), recipe_of(args)
    loop = loop_of(args, recipe)
    if args.dry_run:
        dry_run(args, preset, recipe, loop)
        return
    for name in ("cache", "out"):
        if getattr(args, name) is None:
            raise InvalidInput(name, "none", f"--{name} FOLDER")
    if os.environ.get("RANK", "0") == "0":  # the others' trials would be in its way
        try_folder("out", loop.out)
    ranks = join(args.device)
    try:
        loop.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(loop.seed)
        stage = stage_of(args, preset, recipe, loop, ranks)
        shared = ranks.world if loop.parallel == "fsdp" else 1
        check_memory(sum(state_bytes(stage.model, loop).values()) / shared, ranks)
        trainer = Trainer(stage, loop, ranks)
        if trainer.resume() and ranks.leads:
            print(f"going on from step {trainer.step} of {loop.out}", flush=True)
        trainer.run()
    finally:
        leave()


def stage_of(
    args: argparse.Namespace, preset: Preset, recipe: Recipe, loop: LoopConfig, ranks: Ranks
) -> Any:
    sources = build.Sources(
        cache=args.cache,
        init=args.init,
        runs=args.runs,
        networks=args.networks,
        teacher=args.teacher,
    )
    if args.subcommand == "tokenizer":
        return build.tokenizer(preset, recipe.stage, loop, sources, ranks)
    if args.subcommand == "world-model":
        return build.world_model(preset, recipe.stage, loop, sources, ranks)
    return build.video_decoder(preset, recipe.stage, loop, sources, ranks, continued=args.continued)


def dry_run(args: argparse.Namespace, preset: Preset, recipe: Recipe, loop: LoopConfig) -> None:
    """Prints what the run would cost; nothing is written, no data is needed."""
    from train.plan_run import plan

    world = args.ranks or int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("RANK", "0")) > 0:
        return
    if loop.batch % (world * loop.accumulate):
        raise InvalidInput("batch", loop.batch, f"a multiple of {world} x {loop.accumulate}")
    peak = named_peak(args.estimate_for) if args.estimate_for else peak_flops(join().device)
    estimate = plan(args.subcommand, preset, recipe, loop, ranks=world, peak=peak)
    print(to_json(estimate.as_dict()) if args.json else "\n".join(estimate.lines()))


def add_subcommands(top: Any) -> None:
    for name, text in STAGES.items():
        subcommand: argparse.ArgumentParser = top.add_parser(name, help=text, description=text)
        subcommand.set_defaults(run=run)
        subcommand.add_argument("--preset", default="pocket")
        subcommand.add_argument(
            "--cache", type=Path, help="folder of `data sample` or `data tokenize`"
        )
        subcommand.add_argument(
            "--out", type=Path, help="folder of the run; begun ones are gone on with"
        )
        subcommand.add_argument("--runs", type=Path, help="folder that holds the stages' runs")
        subcommand.add_argument("--init", type=Path, help="weights folder to start from")
        subcommand.add_argument("--networks", type=Path, help="folder with vgg16-397923af.pth")
        subcommand.add_argument("--teacher", type=Path, help="folder of the DINOv2 (DINO) teacher")
        subcommand.add_argument("--device", default="auto", help="auto, cpu, cuda")
        defaults = {f.name: f.type for f in fields(LoopConfig)}
        for option, meaning in LOOP.items():
            kind = {"int": int, "str": str}.get(str(defaults[option]), float)
            subcommand.add_argument(f"--{option.replace('_', '-')}", type=kind, help=meaning)
        subcommand.add_argument("--no-tensorboard", dest="tensorboard", action="store_false")
        subcommand.add_argument("--dry-run", action="store_true", help="cost only, nothing is run")
        subcommand.add_argument("--ranks", type=int, help="dry run: so many processes")
        subcommand.add_argument("--estimate-for", help="dry run: H100, H200, A100, B200")
        subcommand.add_argument("--json", action="store_true", help="dry run: one JSON line")
        if name == "world-model":
            subcommand.add_argument(
                "--scheduled-sampling",
                type=float,
                metavar="SHARE",
                help="of sequences that are seen in part as the model itself draws them",
            )
            subcommand.add_argument(
                "--token-corruption",
                type=float,
                metavar="SHARE",
                help="of sequences that see a few codes of another drive",
            )
        else:
            subcommand.add_argument(
                "--loss",
                action="append",
                default=[],
                metavar="NAME=WEIGHT",
                help=f"{', '.join(LOSSES)}; 0 switches a loss off",
            )
        if name == "video-decoder":
            subcommand.add_argument(
                "--continue",
                dest="continued",
                action="store_true",
                help="from --init's video decoder, not inflated",
            )
        if name == "tokenizer":
            subcommand.add_argument("--ablation", help=", ".join(ABLATIONS))
            how = subcommand.add_mutually_exclusive_group()
            how.add_argument(
                "--continue",
                dest="continued",
                action="store_true",
                help="with --init's codebook; otherwise pocket's recipe places a new one",
            )
            how.add_argument(
                "--decoder-only",
                action="store_true",
                help="--init's image decoder alone: ids, and world models of them, stay valid",
            )
