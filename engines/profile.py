"""Time, arithmetic and share of the frame of every engine, and of its layers where a backend tells.

An engine's FLOPs are those of its convolutions and matrix products, counted on the very module that
was exported; everything else is small beside them. Layers are what a backend's builder can tell.

Legend: K frames of the clip, x any engine's input (B ..).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from engines.builders import BUILDERS
from engines.export import Source
from engines.graphs import graph_module
from engines.verify import inputs_of
from sim_stream.errors import InvalidInput
from sim_stream.runtime.engine import FORMS, Form
from sim_stream.runtime.engine_loader import load_engine
from sim_stream.runtime.engine_manifest import (
    EngineManifest,
    Host,
    engine_path,
    read_engine,
    refuse_mismatch,
)

WARM_UPS = 3


def profile(
    folder: Path, source: Source, frames_KHWC: Tensor, device: torch.device, *, batch: int,
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """The report of every engine there is, slowest layers first. Raises SimStreamError."""
    if not rounds >= 1:
        raise InvalidInput("rounds", rounds, "1 or more")
    host = Host.of(source.preset, source.encoder, source.video_decoder, device)
    forms = [form for form in FORMS if engine_path(folder, form).is_file()]
    reports: dict[str, Any] = {}
    with tqdm(forms, unit="engine", desc="profile") as bar:
        for form in bar:
            bar.set_postfix_str(form.name)
            manifest = read_engine(engine_path(folder, form))
            refuse_mismatch(manifest, engine_path(folder, form), form, host)
            if not 1 <= batch <= manifest.graph.max_batch:
                raise InvalidInput("batch", batch, f"1..{manifest.graph.max_batch}")
            rows = inputs_of(form, source, frames_KHWC)
            x = rows[torch.arange(batch) % len(rows)].to(device)
            reports[form.name] = profile_engine(folder, source, manifest, host, x, rounds)
    return {
        "device": host.device.type,
        "threads": host.threads,
        "batch": batch,
        "rounds": rounds,
        "frame_ms": 1e3 / source.preset.fps,
        "engines": reports,
    }


def profile_engine(
    folder: Path, source: Source, manifest: EngineManifest, host: Host, x: Tensor, rounds: int
) -> dict[str, Any]:
    form = manifest.graph.form
    engine = load_engine(folder, manifest, host)
    times_ms = timed(lambda: engine.run(x), host.device, rounds)
    p50, p95 = np.percentile(times_ms, (50, 95))
    flops = count_flops(form, source, x.cpu())
    return {
        "backend": f"{manifest.backend} {manifest.backend_version} ({manifest.provider})",
        "precision": manifest.graph.precision,
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "gflop": round(flops / 1e9, 3),
        "achieved_tflops": round(flops / p50 / 1e9, 4),
        "share_of_frame": round(float(p50) * source.preset.fps / 1e3, 4),
        "layers_ms": layer_times_ms(folder, manifest, host, x),
    }


def timed(call: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Milliseconds of each call, the device's work included; the first ones only warm up."""
    times = []
    for index in range(WARM_UPS + rounds):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= WARM_UPS:
            times.append(1e3 * (time.perf_counter() - start))
    return times


def count_flops(form: Form, source: Source, x: Tensor) -> int:
    """Two for every multiply-add, of convolutions and matrix products."""
    module = graph_module(form, source.encoder, source.video_decoder, "fp32")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops())


def layer_times_ms(
    folder: Path, manifest: EngineManifest, host: Host, x: Tensor
) -> dict[str, float] | None:
    """Milliseconds of every layer in one run, slowest first; None: the backend does not tell."""
    times_ms = BUILDERS[manifest.backend].layer_times_ms
    if times_ms is None:
        return None
    found = times_ms(folder / manifest.files[0], manifest, host, x)
    order = sorted(found.items(), key=lambda item: -item[1])
    return {name: round(ms, 4) for name, ms in order}


def table(report: dict[str, Any], layers: int) -> str:
    """For people: a line per engine, below it its slowest layers."""
    lines = [f"{'engine':18} {'p50 ms':>9} {'p95 ms':>9} {'GFLOP':>9} {'TFLOP/s':>9} {'frame':>7}"]
    for name, engine in report["engines"].items():
        lines.append(
            f"{name:18} {engine['p50_ms']:9.2f} {engine['p95_ms']:9.2f} {engine['gflop']:9.2f} "
            f"{engine['achieved_tflops']:9.3f} {engine['share_of_frame']:7.1%}"
        )
        slowest = list((engine["layers_ms"] or {}).items())[:layers]
        lines += [f"    {ms:9.3f} ms  {layer}" for layer, ms in slowest]
    return "\n".join(lines)
