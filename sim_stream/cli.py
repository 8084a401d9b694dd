"""The ``sim-stream`` command: serve, view, demo, replay, bench, weights, keygen, doctor.

Only parses and dispatches: each verb's module is imported when it runs, so that ``--help`` needs
neither torch nor zmq. A mistake of the caller is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from sim_stream import __version__, keygen_cli, logs, weights_cli
from sim_stream.config import (
    ATTENTIONS,
    KV_PRECISIONS,
    PRECISIONS,
    PRESETS,
    STEP_ENGINES,
)
from sim_stream.connect_options import add_key_options
from sim_stream.errors import SimStreamError
from sim_stream.view import cli as view_cli
from sim_stream.wire.rates import REQUESTS_PER_S

OK, MISTAKE, INTERRUPTED = 0, 2, 130
# Shown by `replay --help` as the default of what the recording says itself.
AS_RECORDED = "as recorded"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; gives the exit status."""
    args = build_parser().parse_args(argv)
    logs.set_up(args.log_level, getattr(args, "log_format", "text"))
    verbs = {
        "serve": _serve,
        "view": view_cli.run,
        "demo": _demo,
        "replay": _replay,
        "bench": _bench,
        "weights": weights_cli.run,
        "keygen": keygen_cli.run,
        "doctor": _doctor,
    }
    try:
        return verbs[args.verb](args)
    except SimStreamError as error:
        print(f"sim-stream {args.verb}: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        # A server told to stop has done what it was asked to; a demo or a benchmark has not.
        return OK if args.verb == "serve" else INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sim-stream",
        description="Streams driving frames into a world model and predicted frames back.",
    )
    parser.add_argument("--version", action="version", version=f"sim-stream {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="what goes to stderr (default: %(default)s)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_serve(verbs, common)
    view = verbs.add_parser("view", parents=[common], help="a page to watch and drive sessions on")
    _add_model_options(view)
    _add_log_format(view)
    view_cli.add_options(view)
    _add_demo(verbs, common)
    _add_replay(verbs, common)
    _add_bench(verbs, common)
    weights = verbs.add_parser(
        "weights", parents=[common], help="inspect, convert and verify checkpoints"
    )
    weights_cli.add_options(weights)
    keygen = verbs.add_parser("keygen", parents=[common], help="make a key pair for encryption")
    keygen_cli.add_options(keygen)
    _add_doctor(verbs, common)
    return parser


Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_model_options(parser: argparse.ArgumentParser) -> None:
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
        default="raster",
        metavar="HOW",
        help="raster (one code a pass), jacobi[:WINDOW] (the same frames in fewer passes) or "
        "diagonal[:K] (an approximation, marked on every frame) (default: %(default)s)",
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


def _add_random_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="untrained weights, made in place: for profiling a preset that has no files here",
    )


def _add_log_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-format",
        default="text",
        choices=logs.FORMATS,
        help="json: one object a line, with session and step ids (default: %(default)s)",
    )


def _add_serve(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "serve",
        parents=[common],
        help="serve a model over ZeroMQ until Ctrl-C",
        description="Serves a model over ZeroMQ. Prints `ready ENDPOINT` when it listens; "
        "Ctrl-C or SIGTERM ends it with status 0.",
    )
    _add_model_options(parser)
    parser.add_argument(
        "--bind",
        default="tcp://127.0.0.1:5555",
        metavar="ADDRESS",
        help="where clients connect; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--publish", metavar="ADDRESS", help="also publish every frame there, for viewers"
    )
    parser.add_argument(
        "--max-sessions", type=int, default=4, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--lease-s",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="a session whose client is silent for longer is closed (default: %(default)g)",
    )
    _add_record(
        parser,
        "record every session into this folder: frames, and all `replay` needs; started again on "
        "it, the server takes its sessions up where they were",
    )
    parser.add_argument(
        "--metrics",
        metavar="[HOST:]PORT",
        help="answer Prometheus there, at /metrics, on this machine unless HOST says otherwise; "
        "docs/viewing.md lists the names",
    )
    _add_random_weights(parser)
    _add_access_options(parser)
    _add_log_format(parser)
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end with the program that started this one and holds its stdin",
    )


def _add_access_options(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group("who may connect (beyond this machine both are needed)")
    access.add_argument(
        "--key", type=Path, metavar="FILE", help="the server's secret key file; encrypts everything"
    )
    access.add_argument(
        "--allow",
        type=Path,
        metavar="PATH",
        help="the clients' public keys: a folder of .pub files, or a file; changes count at once",
    )
    access.add_argument(
        "--max-sessions-per-key", type=int, metavar="N", help="(default: --max-sessions)"
    )
    access.add_argument(
        "--requests-per-s",
        type=float,
        default=REQUESTS_PER_S,
        metavar="N",
        help="that one key, or without keys one connection, may send (default: %(default)g)",
    )


def _add_demo(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "demo",
        parents=[common],
        help="the main job: start a server, drive it for some frames, write an MP4",
        description="Starts a server, sends two prompt frames, steps it under a short script "
        "(straight, left, straight, right, brake) at the pace of a simulator and writes the "
        "frames as an MP4. The last line on stdout is a JSON summary.",
    )
    _add_model_options(parser)
    parser.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="prompt frames from this video (default: the shipped clip)",
    )
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="prompt from second S on"
    )
    parser.add_argument(
        "--frames", type=int, default=48, metavar="N", help="frames to predict (default: 48)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo.mp4"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="contact sheet (default: beside --out, .png)"
    )
    parser.add_argument(
        "--pace",
        type=float,
        default=4.0,
        metavar="FPS",
        help="steps a second; 0 runs as fast as it can (default: 4)",
    )
    _add_record(parser, "also record the session into this folder, for `replay`")


def _add_record(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--record", type=Path, metavar="DIR", help=what)
    parser.add_argument(
        "--record-format",
        default="ffv1",
        choices=("ffv1", "mp4", "mcap"),
        help="ffv1 (a video) and mcap (for Foxglove; the extra `mcap`) keep every pixel, mp4 is "
        "smaller; all replay (default: %(default)s)",
    )


def _add_replay(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "replay",
        parents=[common],
        help="run a recorded session again and say whether every frame is equal",
        description="Opens the recorded session on a server of its own, started as the recording "
        "says (options here override that), or on --connect's, sends its actions and compares "
        "every frame. Status 0 if all are equal, 1 if not, 2 if it cannot be replayed. A recording "
        "that was cut off replays up to the cut.",
    )
    parser.add_argument(
        "recording", type=Path, metavar="FILE", help="its .jsonl or .mcap file, or its video"
    )
    parser.add_argument(
        "--connect", metavar="ENDPOINT", help="replay on this running server instead"
    )
    add_key_options(parser)
    parser.add_argument("--json", action="store_true", help="the report as the last line")
    _add_model_options(parser)
    for field in _model_fields():
        named = isinstance(parser.get_default(field), str)
        parser.set_defaults(**{field: AS_RECORDED if named else None})


def _add_bench(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "bench",
        parents=[common],
        help="the profiler: latency, jitter, deadline misses and roofline of this machine",
        description="Starts a server, drives it over the wire at fixed paces and as fast as it "
        "goes, and reports latency by stage against what this machine's memory and arithmetic "
        "allow. Writes report.json and report.html. docs/profiling.md says how to read them.",
    )
    _add_model_options(parser)
    _add_random_weights(parser)
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


def _add_doctor(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser(
        "doctor",
        parents=[common],
        help="show what is installed, what is used, what is missing and how to get it",
        description="Shows what is installed, chosen and missing. Status 0 if the main job can "
        "run with the pocket preset, else 1.",
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="check these pocket weights")
    parser.add_argument(
        "--engines",
        default="eager",
        metavar="WHAT",
        help="what `serve --engines` would be given: would it be used, and why (not)",
    )


def _serve(args: argparse.Namespace) -> int:
    from sim_stream import serve

    return serve.run(serve.ServeOptions(**_options(serve.ServeOptions, args)))


def _options(kind: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The fields of an options class, which are named as the options are."""
    return {field.name: getattr(args, field.name) for field in fields(kind)}


def _model_options(args: argparse.Namespace) -> dict[str, Any]:
    from sim_stream.model_options import ModelOptions

    return _options(ModelOptions, args)


def _model_fields() -> list[str]:
    from sim_stream.model_options import ModelOptions

    return [field.name for field in fields(ModelOptions) if field.name != "log_level"]


def _replay(args: argparse.Namespace) -> int:
    from sim_stream.recording import replay

    given = {name: getattr(args, name) for name in _model_fields()}
    return replay.run(
        replay.ReplayOptions(
            recording=args.recording,
            endpoint=args.connect,
            key=args.key,
            server_key=args.server_key,
            model={name: v for name, v in given.items() if v not in (None, AS_RECORDED)},
            as_json=args.json,
        )
    )


def _demo(args: argparse.Namespace) -> int:
    from sim_stream import demo

    return demo.run(
        demo.DemoOptions(
            **_model_options(args),
            video=args.video,
            start_s=args.start,
            frames=args.frames,
            seed=args.seed,
            out=args.out,
            sheet=args.sheet,
            pace_fps=args.pace,
            record=args.record,
            record_format=args.record_format,
        )
    )


def _bench(args: argparse.Namespace) -> int:
    from sim_stream.bench.options import BenchOptions

    given = {"frames": args.frames, "warm_up": args.warm_up}
    counts = {name: count for name, count in given.items() if count is not None}
    make = BenchOptions.quick if args.quick else BenchOptions
    options = make(
        **_model_options(args),
        **counts,
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


def _doctor(args: argparse.Namespace) -> int:
    from sim_stream import doctor

    return doctor.run(as_json=args.json, weights=args.weights, engines=args.engines)
