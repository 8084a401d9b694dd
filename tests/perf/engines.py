"""Encoder and video decoder by every engine that runs here, against eager PyTorch in fp32.

Engines take turns within a round, so that a drift of the machine's speed meets all: eager PyTorch
in fp32 and, where the device multiplies it, bf16; a GPU's CUDA graph; --compiled: torch.compile;
the folder's engines. On a GPU also the share of its measured GEMM rate that each reaches.

python -m tests.perf.engines [--engines DIR] [--compiled] [--preset openviga --random] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from engines.export import Source
from engines.profile import count_flops
from engines.verify import inputs_of
from sim_stream.config import Preset, get_preset
from sim_stream.models import checkpoints
from sim_stream.models.layers import channels_last, fold_upsampling
from sim_stream.models.video_decoder import VideoDecoder, inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.plain_json import to_json
from sim_stream.runtime.choices import multiplies_bf16
from sim_stream.runtime.engine import ENCODE, ENCODER, STEADY, EngineSet, Form
from sim_stream.runtime.engine_loader import load_folder
from sim_stream.runtime.engine_manifest import Host
from sim_stream.runtime.torch_engine import torch_engines
from sim_stream.video import SAMPLE, read_clip
from tests.perf.machine import describe

WARM_UPS = 3
TWIN = "eager fp32"


def models_of(preset: Preset, *, random: bool) -> tuple[VQModel, VideoDecoder]:
    if random:
        torch.manual_seed(0)
        vq = VQModel(preset.vq)
        return vq, inflate(vq, preset.video_decoder)
    loaded = checkpoints.load(checkpoints.weights_dir(preset.name, None), preset)
    return loaded.vq_model, loaded.video_decoder


def contenders(
    source: Source, device: torch.device, folder: Path | None, *, compiled: bool
) -> dict[str, EngineSet]:
    """Every engine set that can run here, its twin first."""

    def by_torch(mode: str, dtype: torch.dtype) -> EngineSet:
        models = copy.deepcopy((source.encoder, source.video_decoder))
        fold_upsampling(models[1])
        for model in models:
            channels_last(model.to(device, dtype).eval().requires_grad_(False))
        return torch_engines(*models, mode, device)

    found = {TWIN: by_torch("eager", torch.float32)}
    if device.type == "cuda" or multiplies_bf16():
        found["eager bf16"] = by_torch("eager", torch.bfloat16)
    if device.type == "cuda":
        found["cuda-graph bf16"] = by_torch("cuda-graph", torch.bfloat16)
    for name in [name for name in found if name.startswith("eager") and compiled]:
        dtype = torch.bfloat16 if "bf16" in name else torch.float32
        found[name.replace("eager", "compiled")] = by_torch("compiled", dtype)
    if folder is not None:
        host = Host.of(source.preset, source.encoder, source.video_decoder, device)
        engines = load_folder(folder, host)
        found[engines.description.split(" from ")[0]] = engines
    return found


def calls_of(form: Form, engines: EngineSet, x: Tensor) -> Callable[[], Tensor]:
    if form.part == ENCODER:
        return lambda: engines.encode(x)
    return lambda: engines.decode_frame(x, form.emit)


def gemm_tflops(device: torch.device) -> float:
    """bf16 products of 8192 x 8192: what this GPU reaches when nothing else limits it."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(20):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        a @ a
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * 8192**3 / float(np.median(times)) / 1e9


def measure(
    calls: dict[str, Callable[[], Tensor]], device: torch.device, rounds: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Milliseconds of every call, round by round, and what each gave."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    results = {}
    for index in tqdm(range(WARM_UPS + rounds), unit="round"):
        for name, call in calls.items():
            start = time.perf_counter()
            results[name] = call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index >= WARM_UPS:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times, results


def summarise(
    form: Form, times: dict[str, list[float]], results: dict[str, Tensor], flops: int
) -> dict[str, Any]:
    report = {}
    for name, ms in times.items():
        p50, p95 = np.percentile(ms, (50, 95))
        ratio = float(np.median(np.array(times[TWIN]) / np.array(ms)))
        difference = (results[name].cpu().int() - results[TWIN].cpu().int()).abs()
        agreement = (
            {"ids_agreement": round(float((difference == 0).float().mean()), 4)}
            if form.part == ENCODER
            else {"max_difference": int(difference.max())}
        )
        report[name] = {
            "p50_ms": round(float(p50), 3),
            "p95_ms": round(float(p95), 3),
            "eager_fp32_to_this_ratio_p50": round(ratio, 3),
            "tflops": round(flops / float(p50) / 1e9, 3),
            **agreement,
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="pocket")
    parser.add_argument("--random", action="store_true", help="random weights: speed only")
    parser.add_argument("--engines", type=Path, metavar="DIR", help="built by python -m engines")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = get_preset(args.preset)
    encoder, video_decoder = models_of(preset, random=args.random)
    source = Source(preset=preset, encoder=encoder, video_decoder=video_decoder)
    clip = torch.from_numpy(read_clip(SAMPLE, frames=3, size=preset.vq.frame))
    inputs = {form: inputs_of(form, source, clip)[:1] for form in (ENCODE, STEADY)}
    engines = contenders(source, device, args.engines, compiled=args.compiled)
    report: dict[str, Any] = {"benchmark": "engines", "preset": preset.name, "machine": describe()}
    if device.type == "cuda":
        report["gemm_bf16_tflops"] = round(gemm_tflops(device), 1)
    for form, x in inputs.items():
        on_device = x.to(device)
        calls = {name: calls_of(form, each, on_device) for name, each in engines.items()}
        times, results = measure(calls, device, args.rounds)
        flops = count_flops(form, source, x)
        report[form.name] = found = summarise(form, times, results, flops)
        for name, figures in found.items():
            if device.type == "cuda" and "bf16" in name:
                figures["share_of_gemm"] = round(figures["tflops"] / report["gemm_bf16_tflops"], 3)
            print(f"{form.name:18} {name:34} " + "  ".join(f"{k} {v}" for k, v in figures.items()))
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
