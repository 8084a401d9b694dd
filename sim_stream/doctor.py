"""``sim-stream doctor``: what is installed, what would be used, what is missing, how to get it.

Reports and changes nothing. ``problems`` are what keeps the pocket main job from running; a missing
accelerator is only a note. Looks packages up without importing them where an import can fail in
odd ways (torch-tensorrt beside CPU torch raises a bare Exception).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import sim_stream
from sim_stream.clips import SAMPLE
from sim_stream.config import TORCH_ENGINES, get_preset, to_dict
from sim_stream.errors import SimStreamError
from sim_stream.plain_json import to_json
from sim_stream.runtime.backends import BACKENDS

PRESET = "pocket"
PACKAGES = (
    "torch",
    "numpy",
    "av",
    "pyzmq",
    "msgspec",
    "safetensors",
    "onnx",
    "onnxruntime",
    "tqdm",
)
WHY_EAGER = (
    "the default; on a CPU nothing was measured to be clearly faster, see tests/perf/engines.py"
)
# Extra, its distribution, what needs it.
EXTRAS = (
    ("bench", "matplotlib", "the plots of `sim-stream bench`"),
    ("mcap", "mcap", "`--record-format mcap`"),
    ("metrics", "prometheus-client", "`sim-stream serve --metrics`"),
    ("view", "aiohttp", "`sim-stream view`"),
    ("weights", "sentencepiece", "`sim-stream weights convert`"),
)
# Distribution, module, how to get it, beside backends. None can be used without an NVIDIA GPU.
ACCELERATORS = (
    ("triton", "triton", "pip install '.[cuda]' in the clone (comes with CUDA builds of torch)"),
    ("flash-attn", "flash_attn", "pip install --no-build-isolation '.[flash]' in the clone"),
)


def examine(weights: Path | None = None, engines: str = "eager") -> dict[str, Any]:
    """The whole report, JSON-ready; ``ok`` is whether the pocket main job can run."""
    problems: list[str] = []
    versions = _versions(problems)
    device = _device(problems)
    report: dict[str, Any] = {
        "sim_stream": sim_stream.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": _cores(),
        "versions": versions,
        "device": device,
        "extras": _extras(),
        "accelerators": _accelerators(),
        "chosen": _chosen(device),
        "engines": _engines(engines, weights, device, problems),
        "weights": _weights(weights, problems),
        "sample": _sample(problems),
        "encoder": _encoder(problems),
    }
    report["problems"] = problems
    report["ok"] = not problems
    return report


def run(*, as_json: bool, weights: Path | None = None, engines: str = "eager") -> int:
    """Prints the report; 0 if the pocket main job can run, else 1."""
    report = examine(weights, engines)
    print(to_json(report, indent=2) if as_json else _as_text(report))
    return 0 if report["ok"] else 1


def _cores() -> int:
    """Cores this process may use, which a container can hold below the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(problems: list[str]) -> dict[str, str | None]:
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}; get them by: make setup")
    return versions


def _device(problems: list[str]) -> dict[str, Any]:
    """The device that ``--device auto`` takes, and why not a better one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        problems.append(f"torch cannot be imported: {error}")
        return {"auto": None, "note": "torch cannot be imported"}
    if torch.cuda.is_available():
        return {
            "auto": "cuda",
            "name": torch.cuda.get_device_name(),
            "capability": list(torch.cuda.get_device_capability()),
            "cuda": torch.version.cuda,
        }
    found: dict[str, Any] = {"auto": "cpu", "threads": torch.get_num_threads()}
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        found["note"] = "an NVIDIA driver is here, but torch is a CPU build: make clean setup"
    elif torch.version.cuda is None:
        found["note"] = "torch is a CPU build; on a machine with an NVIDIA GPU: make setup"
    else:
        found["note"] = "torch is a CUDA build, but it sees no GPU"
    return found


def _extras() -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = {}
    for extra, distribution, what in EXTRAS:
        version = _version(distribution)
        get = None if version else f"pip install 'sim-stream[{extra}]'"
        found[extra] = {"package": distribution, "for": what, "version": version, "get": get}
    return found


def _accelerators() -> dict[str, dict[str, str | bool | None]]:
    found: dict[str, dict[str, str | bool | None]] = {}
    backends = [(b.name, b.module, b.get) for b in BACKENDS.values() if b.needs_gpu]
    for distribution, module, how in (*ACCELERATORS, *backends):
        there = importlib.util.find_spec(module) is not None
        found[distribution] = {
            "installed": there,
            "version": _version(distribution) if there else None,
            "get": None if there else how + "; needs an NVIDIA GPU",
        }
    return found


def _chosen(device: dict[str, Any]) -> dict[str, str | None]:
    """What ``serve`` runs with now when nothing else is asked for."""
    if device["auto"] is None:
        return {"device": None}
    import torch

    from sim_stream.models.attention import pick_attention
    from sim_stream.runtime.choices import auto_step_engine, pick_precision

    where = torch.device(device["auto"])
    precision = pick_precision("auto", "auto", where)
    engine = auto_step_engine(where, precision.whole, small=True)
    attention = "ONNX Runtime's"
    if engine != "onnxruntime":
        attention, _ = pick_attention("auto", where, precision.whole, engine == "compiled")
    return {
        "device": device["auto"],
        "step engine": engine,
        "attention": attention,
        "precision": precision.name,
        "video decoder's precision": "bf16" if precision.video == torch.bfloat16 else "fp32",
    }


def _engines(
    engines: str, weights: Path | None, device: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """What ``--engines`` would run encoder and video decoder with, and why; loads nothing."""
    found: dict[str, Any] = {"asked": engines, "used": None}
    if device["auto"] is None:
        return found
    import torch

    from sim_stream.models import checkpoints
    from sim_stream.runtime.engine_loader import read_folder
    from sim_stream.runtime.engine_manifest import Host

    if engines in TORCH_ENGINES:
        why = WHY_EAGER if engines == "eager" else "asked for"
        return found | {"used": f"torch {engines}", "why": why}
    try:
        preset, where = get_preset(PRESET), torch.device(device["auto"])
        loaded = checkpoints.load(checkpoints.weights_dir(PRESET, weights), preset)
        host = Host.of(preset, loaded.vq_model, loaded.video_decoder, where)
        manifests = read_folder(Path(engines), host)
    except SimStreamError as error:
        problems.append(f"engines: {error}")
        return found | {"why": "refused"}
    forms = {
        form.name: {
            "backend": f"{m.backend} {m.backend_version} ({m.provider})",
            "precision": m.graph.precision,
            "verified": bool(m.verification.get("passed")),
        }
        for form, m in manifests.items()
    }
    unverified = [name for name, form in forms.items() if not form["verified"]]
    if unverified:
        problems.append(
            f"engines: {', '.join(unverified)} not verified; run: python -m engines verify "
            f"{engines}"
        )
        return found | {"why": "not verified", "forms": forms}
    used = ", ".join(
        sorted({f"{form['backend']} in {form['precision']}" for form in forms.values()})
    )
    return (
        found
        | {"used": used, "why": "manifests match weights, device and versions"}
        | {"forms": forms}
    )


def _weights(weights: Path | None, problems: list[str]) -> dict[str, Any]:
    """The pocket weights, loaded as ``serve`` loads them: hashes and shapes must match."""
    found: dict[str, Any] = {"preset": PRESET, "verified": False}
    try:
        from sim_stream.models import checkpoints

        folder = checkpoints.weights_dir(PRESET, weights)
        found["path"] = str(folder)
        loaded = checkpoints.load(folder, get_preset(PRESET))
    except (ImportError, OSError, SimStreamError) as error:
        problems.append(f"weights of preset {PRESET}: {error}")
        return found
    return found | {
        "verified": True,
        "model_id": loaded.model_id,
        "sha256": loaded.sha256,
        "expects": to_dict(loaded.expects),
    }


def _sample(problems: list[str]) -> dict[str, Any]:
    there = SAMPLE.is_file() and SAMPLE.with_suffix(".json").is_file()
    if not there:
        problems.append(f"no sample clip: {SAMPLE} and its .json; give `demo` a --video instead")
    return {"path": str(SAMPLE), "found": there}


def _encoder(problems: list[str]) -> dict[str, Any]:
    """Whether the demo can write H.264."""
    try:
        import av.codec

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError) as error:
        problems.append(f"no H.264 encoder for the demo's MP4: {error}")
        return {"h264": None}
    return {"h264": "libx264"}


def _expectations(expects: dict[str, Any]) -> list[str]:
    """What the weights say of what they take, a line each."""
    lines = []
    if camera := expects.get("camera"):
        lines.append(
            "camera       the model knows frames of {field_of_view_deg:g} degrees both ways, from "
            "{up_m:g} m up, {pitch_down_deg:g} degrees down".format(**camera)
        )
    if expects.get("prompt_psnr_min_db") is not None:
        least = expects["prompt_psnr_min_db"]
        lines.append(f"prompts      foreign below {least:g} dB to their reconstruction")
    return lines


def _as_text(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    weights, device = report["weights"], report["device"]
    lines = [
        f"sim-stream   {report['sim_stream']} on Python {report['python']} ({sys.executable})",
        f"packages     {versions}",
        f"machine      {report['platform']}, {report['cpu_cores']} CPU cores",
        f"device       {device.get('name', device['auto'])}"
        + (f" ({device['note']})" if "note" in device else ""),
        "would use    " + ", ".join(f"{key} {value}" for key, value in report["chosen"].items()),
        f"engines      {report['engines']['used'] or report['engines']['asked']}"
        + (f" ({report['engines']['why']})" if "why" in report["engines"] else ""),
        f"weights      {weights['preset']}: {weights.get('path', 'none')}"
        + (" (match their manifest)" if weights["verified"] else " (NOT USABLE)"),
        *_expectations(weights.get("expects", {})),
        f"sample clip  {report['sample']['path']}"
        + ("" if report["sample"]["found"] else " (MISSING)"),
    ]
    for extra in report["extras"].values():
        state = extra["version"] or f"not installed; {extra['get']}"
        lines.append(f"optional     {extra['package']} for {extra['for']}: {state}")
    for name, found in report["accelerators"].items():
        state = found["version"] if found["installed"] else f"not installed; {found['get']}"
        lines.append(f"optional     {name}: {state}")
    lines += [f"PROBLEM      {problem}" for problem in report["problems"]]
    lines.append("ok: the pocket main job can run" if report["ok"] else "the main job cannot run")
    return "\n".join(lines)
