"""``sim-stream bench``: options in; the work is done by ``sim_stream.bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sim_stream.cli.options import (
    add_model_options,
    add_named_model,
    add_random_weights,
    model_options,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Starts a server, drives it over the wire at fixed paces and as fast as it "
        "goes, and reports latency by stage against what this machine's memory and arithmetic "
        "allow. Writes report.json and report.html. docs/profiling.md says how to read them."
    )
    add_model_options(parser)
    add_named_model(parser)
    add_random_weights(parser)
    parser.add_argument(
        "--paces",
        default="4,8,12,free",
        metavar="LIST",
        help="steps a second, comma-separated; `free` runs as fast as it goes (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames measured per run (default: 100)"
    )
    parser.add_argument(
        "--warm-up", type=int, metavar="N", help="frames before them, left out (default: 8)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="20 frames after 4, unless said otherwise"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="(default: bench/PRESET-DATE-TIME, here)"
    )
    parser.add_argument("--no-html", action="store_true", help="no page; needs no matplotlib")
    parser.add_argument("--json", action="store_true", help="the report as the last line")
    parser.add_argument(
        "--roofline",
        metavar="GPU",
        help="no run: what the preset's bytes and operations allow on an H100 or H200, on paper",
    )


def run(args: argparse.Namespace) -> int:
    """Raises SimStreamError."""
    from sim_stream.bench.options import BenchOptions

    given = {"frames": args.frames, "warm_up": args.warm_up}
    counts = {name: count for name, count in given.items() if count is not None}
    make = BenchOptions.quick if args.quick else BenchOptions
    options = make(
        **model_options(args),
        **counts,
        model=args.model,
        random_weights=args.random_weights,
        paces=args.paces,
        seed=args.seed,
        out=args.out,
        html=not args.no_html,
        as_json=args.json,
    )
    if args.roofline is not None:
        from sim_stream.bench import paper

        return paper.run(options, args.roofline)
    from sim_stream.bench import profile

    return profile.run(options)
