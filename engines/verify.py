"""Verification: engines replay real frames beside their PyTorch fp32 twins.

The twins are the models as loaded: nothing folded, nothing rewritten. What is found goes into each
engine's manifest; the runtime takes no engine without it.

Legend: K frames of the clip, B batch, T frames of a window, N ids of a frame, x any engine's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from engines.export import Source
from sim_stream.errors import EngineError
from sim_stream.models.vq_model import from_pixels
from sim_stream.runtime.engine import ENCODER, FORMS, Engine, Form
from sim_stream.runtime.engine_loader import load_engine
from sim_stream.runtime.engine_manifest import (
    EngineManifest,
    Host,
    engine_path,
    read_engine,
    refuse_mismatch,
    write,
)
from sim_stream.runtime.torch_engine import function_of

REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """`ids_agreement`: share of equal ids, at least; `psnr_db` at least; `max_difference` at most,
    in steps of 1/255."""

    ids_agreement: float
    psnr_db: float
    max_difference: int


# In fp32 only the order of sums differs: a code flips where two are equally near, a pixel where a
# value lies on .5. Half precision keeps 8 (bf16) or 11 (fp16) bits of every activation: eager
# PyTorch in bf16 finds about 96 % of the pocket encoder's ids. Limits for pixels are far above the
# decoder's own PSNR to the camera's frames (about 28 dB), so no viewer sees the engine.
THRESHOLDS: Mapping[str, Thresholds] = {
    "fp32": Thresholds(ids_agreement=0.999, psnr_db=55.0, max_difference=2),
    "fp16": Thresholds(ids_agreement=0.98, psnr_db=45.0, max_difference=16),
    "bf16": Thresholds(ids_agreement=0.90, psnr_db=38.0, max_difference=32),
}


def verify(
    folder: Path, source: Source, frames_KHWC: Tensor, device: torch.device, clip: str
) -> dict[Form, EngineManifest]:
    """Verifies every engine there is; their new manifests, already written. Raises EngineError.

    `clip`: what the frames are, for the manifest. At least 4 frames, so that windows differ.
    """
    forms = [form for form in FORMS if engine_path(folder, form).is_file()]
    if not forms:
        raise EngineError(f"{folder}: no engines; `python -m engines build` makes them")
    host = Host.of(source.preset, source.encoder, source.video_decoder, device)
    found = {}
    with tqdm(forms, unit="engine", desc="verify") as bar:
        for form in bar:
            bar.set_postfix_str(form.name)
            path = engine_path(folder, form)
            manifest = read_engine(path)
            refuse_mismatch(manifest, path, form, host)
            x = inputs_of(form, source, frames_KHWC)
            twin = function_of(source.encoder, source.video_decoder, form)
            with torch.inference_mode():
                expected = torch.cat([twin(row) for row in x.split(1)])
            figures = replay(folder, manifest, host, x, expected)
            verified = replace(manifest, verification={**figures, "clip": clip})
            write(path, verified)
            found[form] = verified
    return found


@torch.inference_mode()
def inputs_of(form: Form, source: Source, frames_KHWC: Tensor) -> Tensor:
    """What an engine of that form takes when it replays these frames, (B ..)."""
    if form.part == ENCODER:
        return frames_KHWC
    return windows(source.encoder.encode(from_pixels(frames_KHWC)), form.frames)


def windows(ids_KN: Tensor, frames: int) -> Tensor:
    """Every run of that many frames, (B T N)."""
    return ids_KN.unfold(0, frames, 1).movedim(-1, 1).contiguous()


def replay(
    folder: Path, manifest: EngineManifest, host: Host, x: Tensor, expected: Tensor
) -> dict[str, Any]:
    """Figures of one engine over the inputs `x` (B ..), alone and in batches."""
    x = x.to(host.device)
    engine = load_engine(folder, manifest, host)
    alone = _run(engine, x, 1)
    again = [_run(engine, x[:1], 1) for _ in range(REPEATS)]
    reloaded = load_engine(folder, manifest, host)
    batch = min(manifest.graph.max_batch, len(x))
    figures: dict[str, Any] = {
        "inputs": len(x),
        "deterministic": all(torch.equal(y, alone[:1]) for y in again),
        "reload_equal": torch.equal(_run(reloaded, x[:1], 1), alone[:1]),
        "input_matters": not torch.equal(alone[0], alone[-1]),
        "alone": compare(manifest.graph.form, alone, expected),
        f"batch_of_{batch}": compare(manifest.graph.form, _run(engine, x, batch), expected),
    }
    limits = THRESHOLDS[manifest.graph.precision]
    checks = [figures[key] for key in ("deterministic", "reload_equal", "input_matters")]
    checks += [holds(figures[key], limits) for key in ("alone", f"batch_of_{batch}")]
    return figures | {"passed": all(checks)}


def _run(engine: Engine, x: Tensor, batch: int) -> Tensor:
    return torch.cat([engine.run(rows).cpu() for rows in x.split(batch)])


def compare(form: Form, found: Tensor, expected: Tensor) -> dict[str, Any]:
    """Ids: the share that agrees. Pixels: PSNR (None: equal) and the largest difference."""
    if form.part == ENCODER:
        return {"ids_agreement": float((found == expected).double().mean())}
    difference = found.double() - expected.double()
    error = float(difference.square().mean())
    psnr = None if error == 0.0 else float(10.0 * torch.tensor(255.0**2 / error).log10())
    return {"psnr_db": psnr, "max_difference": int(difference.abs().max())}


def holds(figures: Mapping[str, Any], limits: Thresholds) -> bool:
    if "ids_agreement" in figures:
        return bool(figures["ids_agreement"] >= limits.ids_agreement)
    psnr = figures["psnr_db"]
    near = psnr is None or psnr >= limits.psnr_db
    return near and bool(figures["max_difference"] <= limits.max_difference)
