"""Options that several subcommands take, and how parsed ones become an options class."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim_stream import logs
from sim_stream.clips import CLIPS
from sim_stream.config import (
    ATTENTIONS,
    KV_PRECISIONS,
    PRECISIONS,
    PRESETS,
    STEP_ENGINES,
    DecodingConfig,
)
from sim_stream.decoding.kind import StrategyKind
from sim_stream.decoding.strategies import STRATEGIES


def add_model_options(parser: argparse.ArgumentParser) -> None:
    presets = ", ".join(sorted(PRESETS))
    parser.add_argument("--preset", default="pocket", help=f"{presets} (default: %(default)s)")
    parser.add_argument(
        "--weights", type=Path, metavar="DIR", help="weights folder (default: the shipped one)"
    )
    _add_part_options(parser)
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto takes a GPU where there is one (default: %(default)s)",
    )
    parser.add_argument(
        "--decoding",
        default=DecodingConfig.strategy,
        metavar="HOW",
        help=f"{', '.join(map(_described, STRATEGIES.values()))} (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="auto: bf16 on a GPU; on a CPU fp32, but the video decoder in bf16 where the CPU "
        "multiplies bf16; fp8, int4: the world model's matrices, on a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-precision",
        default="auto",
        choices=KV_PRECISIONS,
        help="of the KV cache; auto: as the world model computes (default: %(default)s)",
    )
    parser.add_argument(
        "--step-engine",
        default="auto",
        choices=STEP_ENGINES,
        help="what runs the world model's passes; auto takes onnxruntime on a CPU, on a GPU "
        "compiled (static without Triton) (default: %(default)s)",
    )
    parser.add_argument(
        "--attention",
        default="auto",
        choices=ATTENTIONS,
        help="attention of the step engines static and compiled; auto takes flash where it is "
        "installed (default: %(default)s)",
    )
    parser.add_argument(
        "--engines",
        default="eager",
        metavar="WHAT",
        help="what runs encoder and video decoder: PyTorch as eager, compiled or cuda-graph, or a "
        "folder made by `python -m engines build` (default: %(default)s)",
    )
    parser.add_argument(
        "--lookahead",
        type=int,
        choices=(0, 1),
        help="frames that a reply waits for: 1 decodes with both neighbours, 0 answers at once "
        "(default: the preset's)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of each stage (default: 1)"
    )


def _described(kind: StrategyKind) -> str:
    frames = "the same frames" if kind.exact else "an approximation, marked on every frame"
    return f"{kind.usage} ({kind.about}; {frames})"


def _add_part_options(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_argument_group("weights from several places")
    for option, text in (
        ("--vqgan", "tokenizer and image decoder of this weights folder"),
        ("--world-model", "world model of this weights folder"),
        ("--adapter", "LoRA adapter in peft's form, merged into the world model"),
    ):
        parts.add_argument(option, type=Path, metavar="DIR", help=text)
    parts.add_argument(
        "--video-decoder",
        type=Path,
        metavar="DIR",
        help="video decoder of this weights folder; `inflate`: made from the image decoder, "
        "untrained in time, marked on every frame",
    )


def add_named_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="MODULE:CALLABLE",
        help="a model of your own, instead of a preset: what gives a StreamModel",
    )


def add_random_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="untrained weights, made in place: for profiling a preset that has no files here",
    )


def add_log_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-format",
        default="text",
        choices=logs.FORMATS,
        help="json: one object a line, with session and step ids (default: %(default)s)",
    )


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """``args.clip``, ``args.video``, ``args.start_s``: what the drive starts from."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--clip",
        default="day",
        choices=list(CLIPS),
        help="prompt frames from this shipped clip (default: %(default)s)",
    )
    source.add_argument(
        "--video", type=Path, metavar="FILE", help="prompt frames from a video of your own"
    )
    parser.add_argument(
        "--start",
        type=float,
        default=0.0,
        metavar="S",
        dest="start_s",
        help="prompt from second S on (default: 0)",
    )


def add_record(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--record", type=Path, metavar="DIR", help=what)
    parser.add_argument(
        "--record-format",
        default="ffv1",
        choices=("ffv1", "mp4", "mcap"),
        help="ffv1 (a video) and mcap (for Foxglove; the extra `mcap`) keep every pixel, mp4 is "
        "smaller; all replay (default: %(default)s)",
    )


def as_fields(kind: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The fields of an options class, which are named as the options are."""
    return {field.name: getattr(args, field.name) for field in fields(kind)}


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    from sim_stream.model_options import ModelOptions

    return as_fields(ModelOptions, args)
