"""Time and memory of LWM's 7B, from its stream to a model: converted and loaded.

python -m tests.perf.loading [--folder DIR] [--layers N] [--device cpu|cuda] [--out FILE]

Writes a `params` stream of the real size with random values (fewer layers where disk or memory do
not allow it, which the report says), converts it, and loads the result in processes of their own;
everything is deleted afterwards. `cold`: the page cache was emptied of these files first. The slow
twin is safetensors' `load_file` with `load_state_dict`, which checks no hash and holds everything
twice; it runs where memory allows that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sim_stream.config import OPENVIGA, Preset
from sim_stream.plain_json import to_json
from tests.models.formats.lwm_files import full_layout, write_stream
from tests.perf.machine import describe

GB = 1e9
SAMPLE_S = 0.02


def preset_of(layers: int) -> Preset:
    return replace(OPENVIGA, world_model=replace(OPENVIGA.world_model, num_layers=layers))


def stream_bytes(layers: int) -> int:
    c = OPENVIGA.world_model
    layer = 4 * c.hidden_size**2 + 3 * c.hidden_size * c.intermediate_size
    return 2 * (layers * layer + 2 * (c.text_vocab_size + c.vision_vocab_size) * c.hidden_size)


def layers_that_fit(folder: Path) -> int:
    """All 32, or as many as disk (source and result) and memory (the model) allow."""
    disk = shutil.disk_usage(folder).free - 8 * GB
    memory = free_memory_bytes()
    fitting = [n for n in range(1, 33) if 2 * stream_bytes(n) < disk and stream_bytes(n) < memory]
    if not fitting:
        raise SystemExit(f"{folder}: {disk / GB:.0f} GB of disk, {memory / GB:.0f} GB of memory")
    return fitting[-1]


def free_memory_bytes() -> float:
    """What may be taken, page cache included, with room for torch itself."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available_kb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return available_kb * 1024 - 3 * GB


# -- steps that run in processes of their own ------------------------------------------------------


def convert(folder: Path, layers: int, device: str) -> None:
    from sim_stream.models.conversion import convert

    sources = [folder / "params", folder / "tokenizer.model"]
    convert(sources, folder / "weights", preset=preset_of(layers))


def load(folder: Path, layers: int, device: str) -> None:
    from sim_stream.models import checkpoints

    manifest = checkpoints.read_manifest(folder / "weights")
    model = checkpoints.load_part(
        *(folder / "weights", manifest, preset_of(layers), "world_model"),
        device=device,
        dtype=torch.bfloat16,
    )
    assert sum(w.numel() for w in model.parameters()) * 2 > stream_bytes(layers)


def slow_twin(folder: Path, layers: int, device: str) -> None:
    from safetensors.torch import load_file

    from sim_stream.models.world_model import WorldModel

    state = {}
    for path in sorted((folder / "weights").glob("*.safetensors")):
        state |= load_file(path)
    with torch.device("meta"):
        model = WorldModel(preset_of(layers).world_model).to(torch.bfloat16)
    model.to_empty(device=device).load_state_dict(state)


STEPS: dict[str, Callable[[Path, int, str], None]] = {
    f.__name__: f for f in (convert, load, slow_twin)
}


class PeakAnonymous:
    """The most memory of this process's own, pages of mapped files not counted."""

    def __init__(self) -> None:
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakAnonymous:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)


def child(step: str, folder: Path, layers: int, device: str) -> None:
    """Runs one step and prints its figures; memory before it, torch's own, is told apart."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with PeakAnonymous() as memory:
        start_s = time.perf_counter()
        STEPS[step](folder, layers, device)
        elapsed_s = time.perf_counter() - start_s
    figures = {
        "seconds": round(elapsed_s, 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB, 2),
        "peak_anonymous_gb": round(memory.peak / GB, 2),
        "before_gb": round(before / GB, 2),
    }
    print(to_json(figures), flush=True)


# -- the run ---------------------------------------------------------------------------------------


def measure(step: str, folder: Path, layers: int, device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.perf.loading", "--child", step]
    command += ["--folder", str(folder), "--layers", str(layers), "--device", device]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    figures["gb_per_s"] = round(stream_bytes(layers) / GB / figures["seconds"], 2)
    print(f"{step:10} {figures}", flush=True)
    return figures


def forget(folder: Path) -> None:
    """Empties the page cache of the files below; they must be on disk for that."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def generated(parent: Path, layers: int) -> Iterator[Path]:
    """A folder with `params` and a small tokenizer; gone afterwards."""
    import sentencepiece

    with tempfile.TemporaryDirectory(dir=parent, prefix="loading-") as name:
        folder = Path(name)
        values = torch.randn(1 << 25, generator=torch.Generator().manual_seed(0)) * 0.02
        block = values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
        write_stream(folder / "params", full_layout(preset_of(layers).world_model, 0), block)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([OPENVIGA.prompt] * 20),
            model_prefix=str(folder / "tokenizer"),
            model_type="bpe",
            vocab_size=300,
            byte_fallback=True,
            minloglevel=2,
        )
        yield folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, help="of the model (default: 32, or what fits)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="also write the report here")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder, args.layers, args.device)
        return
    machine = describe()
    args.folder.mkdir(parents=True, exist_ok=True)
    layers = args.layers or layers_that_fit(args.folder)
    report: dict[str, Any] = {"benchmark": "loading", "machine": machine, "layers": layers}
    with generated(args.folder, layers) as folder:
        report["stream_gb"] = round((folder / "params").stat().st_size / GB, 2)
        print(f"a stream of {report['stream_gb']} GB, {layers} layers", flush=True)
        run = (folder, layers, args.device)
        forget(folder)
        report["convert_cold"] = measure("convert", *run)
        (folder / "params").unlink()
        forget(folder)
        report["load_cold"] = measure("load", *run)
        report["load_warm"] = measure("load", *run)
        if 2 * stream_bytes(layers) < free_memory_bytes():
            twin = report["slow_twin_warm"] = measure("slow_twin", *run)
            ratio = twin["seconds"] / report["load_warm"]["seconds"]
            report["load_against_slow_twin"] = round(ratio, 2)
    line = to_json(report)
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(line)


if __name__ == "__main__":
    main()
