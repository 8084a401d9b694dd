"""The video decoder's three forms in one run: as trained, folded, folded in bf16.

They are run in turn, so that a drift of the machine's speed meets all.

python -m tests.perf.video_decoder [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import get_preset
from sim_stream.models import checkpoints
from sim_stream.models.layers import channels_last, fold_upsampling
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import from_pixels
from sim_stream.plain_json import to_json
from sim_stream.video import SAMPLE, read_clip
from tests.perf.machine import describe


def forms(plain: VideoDecoder) -> dict[str, VideoDecoder]:
    folded = copy.deepcopy(plain)
    fold_upsampling(folded)
    made = {"plain": plain, "folded": folded, "folded_bf16": copy.deepcopy(folded).bfloat16()}
    for model in made.values():
        channels_last(model.eval().requires_grad_(False))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe()
    preset = get_preset("pocket")
    loaded = checkpoints.load(checkpoints.weights_dir("pocket", None), preset)
    clip = read_clip(SAMPLE, frames=3, size=preset.vq.frame)
    models = forms(loaded.video_decoder)
    times: dict[str, list[float]] = {name: [] for name in models}
    frames: dict[str, Tensor] = {}
    with torch.inference_mode():
        ids_1TN = loaded.vq_model.encode(from_pixels(torch.from_numpy(clip)))[None]
        for round_number in range(args.rounds + 2):
            for name, model in models.items():
                start = time.perf_counter()
                frames[name] = model(ids_1TN, 1).float()
                if round_number >= 2:  # the first ones warm up
                    times[name].append(1e3 * (time.perf_counter() - start))
    report: dict[str, Any] = {"benchmark": "video_decoder", "machine": machine}
    for name, ms in times.items():
        p50, p95 = np.percentile(ms, [50, 95])
        error = float((frames[name] - frames["plain"]).square().mean())
        psnr = round(10 * float(np.log10(4.0 / error)), 1) if error else None
        ratio = round(float(np.median(np.array(times["plain"]) / np.array(ms))), 3)
        print(
            f"{name:12} p50 {p50:6.1f} ms  p95 {p95:6.1f}  {ratio:.2f} x  PSNR to plain {psnr} dB"
        )
        report[name] = {
            "p50_ms": round(p50, 2),
            "p95_ms": round(p95, 2),
            "plain_to_this_ratio_p50": ratio,
            "psnr_to_plain_db": psnr,
        }
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
