"""Arguments and output of the subcommands: lines for people, the last one, JSON, for programs."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim_stream import console
from sim_stream.config import PRESETS, FrameSize, get_preset
from sim_stream.console import OK, Parser
from sim_stream.errors import InvalidInput
from sim_stream.model_options import MAX_THREADS
from sim_stream.outputs import try_folder
from sim_stream.plain_json import to_json
from sim_stream.runtime.backends import BACKENDS

if TYPE_CHECKING:
    from torch import Tensor

    from engines.export import ExportOptions, Source

MISSED = 1
LEAST_FRAMES = 4

Verb = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; 0, 1 where an engine missed a threshold, 2 for a caller's mistake."""
    return console.run(build_parser(), argv, _run, interrupted=_interrupted)


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    run: Verb = args.run
    return run(args)


def _interrupted(args: argparse.Namespace, interrupt: KeyboardInterrupt) -> tuple[int, str]:
    line = f"engines {args.subcommand}: interrupted; what is done stays"
    return console.status_of(interrupt), line


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m engines",
        description="Encoder and video decoder as engines. The last line on stdout is JSON.",
    )
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    def add(name: str, run: Verb, text: str) -> argparse.ArgumentParser:
        subcommand = subcommands.add_parser(name, help=text, description=text)
        subcommand.set_defaults(run=run)
        subcommand.add_argument(
            "--weights", type=Path, metavar="DIR", help="(default: the shipped ones)"
        )
        subcommand.add_argument("--threads", type=int, default=1, metavar="N", help="(default: 1)")
        return subcommand

    for name, run, text in (
        ("export", _export, "models -> ONNX graphs in DIR/graphs"),
        ("build", _build, "graphs -> engines; exports first what is missing"),
    ):
        _add_export_options(add(name, run, text), build=name == "build")
    for name, run, text in (
        ("verify", _verify, "engines against PyTorch in fp32; figures into their manifests"),
        ("profile", _profile, "time, TFLOP/s and share of the frame, per engine and per layer"),
    ):
        subcommand = add(name, run, text)
        subcommand.add_argument("dir", type=Path, metavar="DIR", help="made by `build`")
        subcommand.add_argument(
            "--video", type=Path, metavar="FILE", help="frames to replay (default: shipped clip)"
        )
        subcommand.add_argument(
            "--frames", type=int, default=12, metavar="N", help="how many of them (default: 12)"
        )
        if name == "profile":
            subcommand.add_argument(
                "--batch", type=int, default=1, metavar="N", help="(default: 1)"
            )
            subcommand.add_argument(
                "--rounds", type=int, default=20, metavar="N", help="(default: 20)"
            )
            subcommand.add_argument(
                "--layers", type=int, default=10, metavar="N", help="(default: 10)"
            )
    return parser


def _add_export_options(subcommand: argparse.ArgumentParser, *, build: bool) -> None:
    presets = ", ".join(sorted(PRESETS))
    subcommand.add_argument("--preset", default="pocket", help=f"{presets} (default: %(default)s)")
    subcommand.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of engines"
    )
    subcommand.add_argument(
        "--parts",
        nargs="+",
        default=["encoder", "video_decoder"],
        metavar="PART",
        help="encoder, video_decoder (default: both)",
    )
    subcommand.add_argument(
        "--precision",
        metavar="TYPE",
        help="fp32, bf16 or fp16; types in the graph, norms stay in fp32 (default: "
        + ("bf16 on a GPU, fp32 on a CPU)" if build else "fp32)"),
    )
    subcommand.add_argument("--max-batch", type=int, default=8, metavar="N", help="(default: 8)")
    if not build:
        return
    subcommand.add_argument(
        "--backend",
        default=next(iter(BACKENDS)),
        help=f"{', '.join(BACKENDS)} (default: %(default)s)",
    )
    subcommand.add_argument(
        "--provider",
        metavar="NAME",
        help="what the backend's engines run on (default: the first of "
        + "; ".join(f"{b.name}: {', '.join(b.providers)}" for b in BACKENDS.values())
        + ")",
    )
    subcommand.add_argument(
        "--workspace-mib", type=int, default=4096, metavar="N", help="TensorRT's (default: 4096)"
    )
    subcommand.add_argument(
        "--optimization-level", type=int, default=3, metavar="0..5", help="TensorRT's (default: 3)"
    )


def _source(preset_name: str, weights: Path | None, threads: int) -> Source:
    preset = get_preset(preset_name)  # a mistake is said before torch takes seconds to load
    if not 1 <= threads <= MAX_THREADS:
        raise InvalidInput("threads", threads, f"1..{MAX_THREADS}")

    import torch

    from engines.export import Source
    from sim_stream.models import checkpoints

    torch.set_num_threads(threads)
    loaded = checkpoints.load(checkpoints.weights_dir(preset_name, weights), preset)
    return Source(preset=preset, encoder=loaded.vq_model, video_decoder=loaded.video_decoder)


def _exporting(args: argparse.Namespace, precision: str) -> ExportOptions:
    from engines.export import ExportOptions

    return ExportOptions(
        precision=args.precision or precision, parts=tuple(args.parts), max_batch=args.max_batch
    )


def _export(args: argparse.Namespace) -> int:
    get_preset(args.preset)
    try_folder("out", args.out)
    exporting = _exporting(args, "fp32")  # before weights take their time
    source = _source(args.preset, args.weights, args.threads)

    from engines.builder import GRAPHS
    from engines.export import export
    from sim_stream.config import to_dict

    manifests = export(source, args.out / GRAPHS, exporting)
    for form, manifest in manifests.items():
        print(f"{form.name:18} {manifest.precision}, opset {manifest.opset}, {manifest.files[0]}")
    return _end({form.name: to_dict(manifest) for form, manifest in manifests.items()})


def _build(args: argparse.Namespace) -> int:
    get_preset(args.preset)
    try_folder("out", args.out)

    from engines.build import build, check_backend
    from engines.build_options import BuildOptions
    from sim_stream.config import to_dict

    options = BuildOptions(
        backend=args.backend,
        provider=args.provider,
        workspace_bytes=args.workspace_mib << 20,
        optimization_level=args.optimization_level,
    )
    exporting = _exporting(args, "bf16" if options.needs_cuda else "fp32")
    check_backend(options, exporting.precision)  # before weights take their time
    manifests = build(
        _source(args.preset, args.weights, args.threads), args.out, exporting, options
    )
    for form, manifest in manifests.items():
        state = "verified" if manifest.verification.get("passed") else "to be verified"
        print(
            f"{form.name:18} {manifest.backend} {manifest.backend_version} on {manifest.device}, "
            f"{manifest.graph.precision}, {state}"
        )
    return _end({form.name: to_dict(manifest) for form, manifest in manifests.items()})


def _verify(args: argparse.Namespace) -> int:
    source, device = _source_of_folder(args)

    from engines.verify import verify

    clip = args.video.name if args.video else "shipped clip"
    manifests = verify(args.dir, source, _clip(args, source.preset.vq.frame), device, clip)
    for form, manifest in manifests.items():
        figures = manifest.verification
        worst = ", ".join(f"{k} {v}" for k, v in figures["alone"].items())
        print(f"{form.name:18} {'passed' if figures['passed'] else 'MISSED'}  {worst}")
    verified = {form.name: dict(m.verification) for form, m in manifests.items()}
    _end(verified)
    return OK if all(figures["passed"] for figures in verified.values()) else MISSED


def _profile(args: argparse.Namespace) -> int:
    source, device = _source_of_folder(args)

    from engines.profile import profile, table

    report = profile(
        args.dir,
        source,
        _clip(args, source.preset.vq.frame),
        device,
        batch=args.batch,
        rounds=args.rounds,
    )
    print(table(report, args.layers))
    return _end(report)


def _source_of_folder(args: argparse.Namespace) -> tuple[Source, Any]:
    """The models that a folder's engines were made of, and the device they were built for."""
    import torch

    from sim_stream.errors import EngineError
    from sim_stream.runtime.engine import FORMS
    from sim_stream.runtime.engine_manifest import engine_path, read_engine

    there = [path for form in FORMS if (path := engine_path(args.dir, form)).is_file()]
    if not there:
        raise EngineError(f"{args.dir}: no engines; `python -m engines build` makes them")
    manifest = read_engine(there[0])
    device = torch.device("cuda" if manifest.compute_capability else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(f"{there[0]}: built for {manifest.device}, and no CUDA device is here")
    return _source(manifest.graph.preset, args.weights, args.threads), device


def _clip(args: argparse.Namespace, size: FrameSize) -> Tensor:
    """Frames to replay, (K H W C) uint8."""
    import torch

    from sim_stream.video import SAMPLE, read_clip

    if args.frames < LEAST_FRAMES:
        raise InvalidInput("frames", args.frames, f"{LEAST_FRAMES} or more, so that windows differ")
    return torch.from_numpy(read_clip(args.video or SAMPLE, frames=args.frames, size=size))


def _end(report: dict[str, Any]) -> int:
    print(to_json(report), flush=True)
    return OK
