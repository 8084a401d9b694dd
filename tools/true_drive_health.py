"""Do true drives remain stable by the limits of train/rollout_health.py, as recorded and as the
decoder shows them?

    python -m tools.true_drive_health --cache CACHE [--split val] [--drives stray] [--weights DIR]

No prediction can be better than the true frames, encoded and decoded: a limit that these pass, on
the road and beside it, is one that a rollout can be held to. Prints how many windows of 42 frames
pass, the extreme of each sign, and one JSON line. How much a sky differs is what `evaluate --write`
found, from the weights' manifest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sim_stream.errors import InvalidInput
from sim_stream.models.vq_model import to_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.plain_json import to_json
from tools.closed_loop_health import measured_covariance
from train.data.split import Split
from train.rollout_health import FIRST, LAST, Signs, ends, signs, truths
from train.rollouts import LONG, MOVING_MPS, PROMPT

LENGTH = PROMPT + LONG


def judged(start: int) -> slice:
    """Rows of a window: the last but one, which still has a right neighbour, and those before."""
    return slice(start + LENGTH - 1 - LAST, start + LENGTH - 1)


@torch.inference_mode()
def as_decoded(runtime: Runtime, split: Split, start: int) -> np.ndarray:
    """The frames that are judged, each as the middle of three, (T H W 3) uint8."""
    rows = slice(judged(start).start - 1, judged(start).stop + 1)
    ids = runtime.encoder.encode(split.pixels(rows))
    made = [runtime.video_decoder(ids[None, t : t + 3], 1) for t in range(len(ids) - 2)]
    return to_pixels(torch.cat(made)).numpy()


def hold(
    split: Split, starts: list[int], covariance: np.ndarray, runtime: Runtime | None
) -> dict[str, Any]:
    """Shares of windows that pass, and the extremes; `runtime` None: as recorded."""
    found: list[tuple[Signs, bool]] = []
    first = [split.images(slice(s, s + FIRST)) for s in starts]
    about = list(zip(starts, truths(first), strict=True))
    name = "as recorded" if runtime is None else "as decoded"
    for start, truth in tqdm(about, desc=name, unit="window"):
        last = judged(start)
        made = split.images(last) if runtime is None else as_decoded(runtime, split, start)
        stands = bool(split.actions[last, 0].mean() < MOVING_MPS)
        found.append((signs(made, truth, covariance), stands))
    ended = [ends(each, stands) for each, stands in found]
    values = {name: [getattr(each, name) for each, _ in found] for name in Signs._fields}
    return {
        "windows": len(starts),
        "alive": sum(not any(each.values()) for each in ended),
        "ends": {name: sum(each[name] for each in ended) for name in ended[0]},
        "least": {name: round(min(v), 3) for name, v in values.items()},
        "most": {name: round(max(v), 3) for name, v in values.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.true_drive_health", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--drives", default="", help="only drives with this in their names")
    parser.add_argument("--every", type=int, default=6, help="frames from one window to the next")
    parser.add_argument("--windows", type=int, help="at most so many, spread evenly")
    parser.add_argument("--weights", type=Path, help="a pocket folder (default: the shipped)")
    args = parser.parse_args()
    split = Split.open(args.cache, args.split)
    runtime = Runtime.load("pocket", weights=args.weights, device="cpu")
    every = split.windows(LENGTH)[:: args.every]
    starts = [int(s) for s in every if args.drives in split.drive_at(int(s)).id]
    if not starts:
        named = sorted({drive.id for drive in split.drives})
        raise InvalidInput("drives", args.drives, f"part of a name, as of {named[0]}")
    if args.windows and args.windows < len(starts):
        starts = [starts[i] for i in np.linspace(0, len(starts) - 1, args.windows).astype(int)]
    covariance = measured_covariance(args.weights)
    report = {
        "recorded": hold(split, starts, covariance, None),
        "decoded": hold(split, starts, covariance, runtime),
    }
    for kind, held in report.items():
        print(f"as {kind}: {held['alive']} of {held['windows']} remain stable")
        for sign in Signs._fields:
            print(f"  {sign:<8} {held['least'][sign]:7.3f} to {held['most'][sign]:7.3f}")
    print(to_json(report))


if __name__ == "__main__":
    main()
