"""``sim-stream weights inspect|convert|verify``: options in, reports out.

Parsing needs no torch; the work is done by ``sim_stream.models``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sim_stream.config import PRESETS, get_preset
from sim_stream.errors import InvalidInput
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from sim_stream.text import one_line

SHAPES_SHOWN, SHOWN_CHARACTERS = 6, 200


def add_options(parser: argparse.ArgumentParser) -> None:
    """The three subcommands below ``weights``."""
    parser.description = (
        "Tells what a checkpoint is, converts public ones into a weights folder that `serve` "
        "takes, and checks such a folder. Formats: diffusers VQModel, LWM's vqgan and params, "
        "Hugging Face Llama, safetensors, peft adapters. docs/weights.md goes through it."
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    inspect = steps.add_parser("inspect", help="what a file or folder is, and which preset it fits")
    inspect.add_argument("path", type=Path, metavar="PATH")
    convert = steps.add_parser("convert", help="make a weights folder of one part or several")
    convert.add_argument("sources", type=Path, nargs="+", metavar="SRC")
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    convert.add_argument(
        "--preset", help=f"{', '.join(sorted(PRESETS))} (default: the one that fits)"
    )
    convert.add_argument(
        "--pixel-range",
        metavar="RANGE",
        help="of the VQGAN: signed ([-1, 1]) or unit ([0, 1]) (default: found by reconstruction)",
    )
    convert.add_argument(
        "--model-id", metavar="NAME", help="what clients are told (default: the source's name)"
    )
    verify = steps.add_parser("verify", help="check hashes, shapes, values and reconstruction")
    verify.add_argument("path", type=Path, metavar="DIR")
    for step in (inspect, convert, verify):
        step.add_argument(
            "--video",
            type=Path,
            metavar="FILE",
            help="real frames that the VQGAN must reconstruct (default: the shipped clip)",
        )
        step.add_argument("--json", action="store_true", help="the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    video = {} if args.video is None else {"video": args.video}
    if args.step == "inspect":
        from sim_stream.models.inspection import inspect

        return show(inspect(args.path, **video), as_json=args.json)
    if args.step == "verify":
        from sim_stream.models.verification import verify

        return show([verify(args.path, **video)], as_json=args.json)
    preset = None if args.preset is None else get_preset(args.preset)
    if not args.out.name:
        raise InvalidInput("out", repr(str(args.out)), "the name of a folder")
    for folder in (args.out.parent, args.out):  # it is made beside, and moved when it is whole
        try_folder("out", folder)

    from sim_stream.models.conversion import convert

    manifest = convert(
        args.sources,
        args.out,
        preset=preset,
        demanded_range=args.pixel_range,
        model_id=args.model_id,
        **video,
    )
    keep = ("model_id", "preset", "files", "prompt_ids", "tokenizer")
    report = {"out": str(args.out)} | {k: manifest[k] for k in keep if k in manifest}
    return show([report], as_json=args.json)


def show(reports: list[dict[str, Any]], *, as_json: bool) -> int:
    """Reports as one JSON value, or as lines for people."""
    if as_json:
        print(to_json(reports if len(reports) > 1 else reports[0], indent=1))
    else:
        print("\n\n".join("\n".join(lines(report)) for report in reports))
    return 0


def lines(values: dict[str, Any], indent: str = "") -> list[str]:
    """``name  value``, nested values indented; a long table of shapes is cut.

    Names and values may be a file's own: whatever they hold, each stays on its line.
    """
    out = []
    for given, value in values.items():
        name = one_line(given, at_most=SHOWN_CHARACTERS)
        if name == "shapes":
            shown = list(value.items())[:SHAPES_SHOWN]
            value = dict(shown) | {"...": f"{len(value)} in all (--json)"}
        if isinstance(value, dict) and value:
            out += [f"{indent}{name}", *lines(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                out += [f"{indent}{name}", *lines(entry, indent + "  ")]
        else:
            text = f"{value:,}" if isinstance(value, int) else value
            if isinstance(value, list):
                text = "; ".join(map(str, value)) or "none"
            out.append(one_line(f"{indent}{name:<16} {text}"))
    return out
