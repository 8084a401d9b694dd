"""``sim-stream bench``: calibrates the machine, serves, drives at each pace, counts, reports.

The server is a process of its own and is driven as any client would, so every end-to-end figure has
the wire in it. Knows who does what in which order; the parts know the rest.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

import sim_stream
from sim_stream.bench import machine, paced, report, table
from sim_stream.bench.calibration import NAMES, Calibration, calibrate
from sim_stream.bench.course import Course, of_prompt, of_spec
from sim_stream.bench.options import BenchOptions
from sim_stream.bench.roofline import Stages
from sim_stream.bench.setup import Setup, prepare
from sim_stream.bench.sweep import WindowTime, sweep, windows
from sim_stream.config import DecodingConfig
from sim_stream.demo import DemoOptions, read_prompt
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.outputs import said_plainly, try_folder, write_whole
from sim_stream.plain_json import to_json
from sim_stream.prompts import PROMPT_FRAMES
from sim_stream.server_process import ServerProcess
from sim_stream.spec import StreamSpec
from sim_stream.wire.client.blocking_client import RemoteSession, StreamClient

# A full-size model without its fast paths takes seconds a frame.
REPLY_TIMEOUT_S = 300.0
MEANINGLESS = (
    "Weights are random: how many tokens a pass brings says nothing, so passes are timed by window "
    "length instead."
)
BUSY_SHARE = 0.5
CourseOf: TypeAlias = Callable[[StreamSpec, int], Course]  # of so many steps
BUSY = "The machine was busy before the run: neither rates nor times are its best."


def run(options: BenchOptions) -> int:
    """Prints the table, writes the report. Raises SimStreamError; nothing is written then."""
    if options.html and importlib.util.find_spec("matplotlib") is None:
        raise Unavailable(
            "the page's plots need matplotlib: pip install 'sim-stream[bench]' (in the clone: make "
            "setup), or --no-html"
        )
    folder = options.folder()
    try_folder("out", folder)
    about = machine.describe()
    measured = _of_preset(options) if options.model is None else _of_model(options)
    busy = about["load_1min"] > BUSY_SHARE * about["cores"]
    found = {
        "benchmark": "bench",
        "sim_stream": sim_stream.__version__,
        "machine": about,
        **measured,
        "notes": [BUSY] * busy + [MEANINGLESS] * options.random_weights,
    }
    print(table.as_text(found))
    for path in write(found, folder, html=options.html):
        print(path)
    if options.as_json:
        print(to_json(_without_series(found)), flush=True)
    return 0


def _of_preset(options: BenchOptions) -> dict[str, Any]:
    prompt = read_prompt(DemoOptions(preset=options.preset))
    setup = prepare(options, prompt_frames=PROMPT_FRAMES)
    # What the server would refuse, before it takes seconds to start.
    DecodingConfig.parse(options.decoding).check_fits(setup.preset.vq.grid)
    _say("calibrating: copy, read and matrix rates of this machine")
    dtypes = (setup.precision.whole, setup.precision.video)
    calibration = calibrate(setup.device, options.threads, dtypes, setup.pass_bytes)
    stages = stages_of(setup, options, calibration)
    found = _profile_server(options, lambda spec, n: of_prompt(spec, prompt, n), stages)
    if options.random_weights:
        found["sweep"] = report.sweep_report(_sweep(options), stages)
    return {"system": _system(options, setup), "calibration": asdict(calibration), **found}


def _of_model(options: BenchOptions) -> dict[str, Any]:
    """Of a user's model nothing is counted, so nothing has a bound."""
    return {"system": {"model": options.model}, **_profile_server(options, of_spec, None)}


def stages_of(setup: Setup, options: BenchOptions, calibration: Calibration) -> Stages:
    return Stages(
        preset=setup.preset,
        layout=setup.layout,
        decoding=DecodingConfig.parse(options.decoding),
        calibration=calibration,
        storage=setup.storage,
        world_model_type=NAMES[setup.precision.whole],
        video_type=NAMES[setup.precision.video],
        encode=setup.encode.work,
        video_decode=setup.video_decode.work,
        prompt_frames=PROMPT_FRAMES,
    )


def _profile_server(
    options: BenchOptions, course: CourseOf, stages: Stages | None
) -> dict[str, Any]:
    """Cold start and all runs, on one server that is gone when this returns or raises."""
    start_s = time.monotonic()
    _say("starting the server")
    with ServerProcess(options.serve_options()) as server:
        ready_ms = 1e3 * (time.monotonic() - start_s)
        with server.answering():
            return _profile_client(server.endpoint, ready_ms, options, course, stages)


def _profile_client(
    endpoint: str,
    ready_ms: float,
    options: BenchOptions,
    course: CourseOf,
    stages: Stages | None,
) -> dict[str, Any]:
    with StreamClient(endpoint, timeout_s=REPLY_TIMEOUT_S) as client:
        spec = client.info.spec
        first = _cold_start(client, options, course(spec, 1))
        cold = {"start_to_ready_ms": round(ready_ms, 1), **first}
        runs = []
        for pace_fps in options.pace_list():
            steps = options.warm_up + options.frames
            measured = _run(client, options, course(spec, steps), pace_fps)
            runs.append(report.run_report(measured, stages, trained=not options.random_weights))
        return {
            "model_id": spec.model_id,
            "weights_sha256": spec.weights_sha256,
            "cold_start": cold,
            "runs": runs,
        }


def _cold_start(client: StreamClient, options: BenchOptions, course: Course) -> dict[str, float]:
    """First frame and first step of a server that has computed nothing yet."""
    with _open(client, options, course) as session:
        opened = _opened_ns(session)
        named = {
            "open_encode_ms": opened.get("encode"),
            "open_prefill_ms": opened.get("prefill"),
            "open_first_frame_ms": opened.get("round_trip"),
            "first_step_ms": session.step(course.steps[0]).timings_ns["round_trip"],
        }
    return {name: round(ns / 1e6, 2) for name, ns in named.items() if ns is not None}


def _run(
    client: StreamClient, options: BenchOptions, course: Course, pace_fps: float | None
) -> report.Run:
    name = "free" if pace_fps is None else f"{pace_fps:g} fps"
    total = len(course.steps)
    with (
        tqdm(total=total, desc=name, unit="frame", file=sys.stderr, mininterval=0.5) as bar,
        _open(client, options, course) as session,
    ):
        replies = paced.drive(
            session,
            course.steps,
            pace_fps=pace_fps,
            in_flight=client.info.limits.max_in_flight,
            seen=bar.update,
        )
        opened_ns = _opened_ns(session)
    return report.Run(
        pace_fps=pace_fps, warm_up=options.warm_up, replies=replies, opened_ns=opened_ns
    )


def _open(client: StreamClient, options: BenchOptions, course: Course) -> RemoteSession:
    return client.open(**course.start, seed=options.seed, lookahead=options.lookahead)


def _opened_ns(session: RemoteSession) -> Mapping[str, int]:
    """Of the first frame; nothing where the session began without one."""
    try:
        return session.frame.timings_ns
    except InvalidInput:
        return {}


def _sweep(options: BenchOptions) -> list[WindowTime]:
    """In this process, after the server has given its memory back."""
    import torch

    from sim_stream.pipelines.tokens.random_weights import random_runtime

    torch.set_num_threads(options.threads)
    runtime = random_runtime(
        options.preset,
        device=options.device,
        precision=options.precision,
        kv_precision=options.kv_precision,
        step_engine=options.step_engine,
        attention=options.attention,
        engines=options.engines,
        max_sessions=1,
    )
    total = len(windows(runtime.layout.codes_per_frame))
    with tqdm(total=total, desc="windows", unit="window", file=sys.stderr) as bar:
        return sweep(runtime, bar.update)


def _system(options: BenchOptions, setup: Setup) -> dict[str, Any]:
    return {
        "preset": options.preset,
        "random_weights": options.random_weights,
        "device": setup.device.type,
        "threads": options.threads,
        "type": setup.precision.name,
        "video_decoder_type": NAMES[setup.precision.video],
        "decoding": options.decoding,
        "step_engine": options.step_engine,
        "attention": options.attention,
        "lookahead": setup.lookahead,
        "seed": options.seed,
        "needed_gb": round(setup.memory.total / 1e9, 2),
    }


def write(found: dict[str, Any], folder: Path, *, html: bool) -> list[Path]:
    """report.json and report.html, each whole or not at all."""
    texts = {"report.json": to_json(found, indent=1) + "\n"}
    if html:
        from sim_stream.bench import page

        texts["report.html"] = page.as_html(found)
    with said_plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        write_whole(folder / name, text)
        paths.append(folder / name)
    return paths


def _without_series(found: dict[str, Any]) -> dict[str, Any]:
    runs = [{k: v for k, v in run.items() if k != "series"} for run in found["runs"]]
    return {**found, "runs": runs}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
