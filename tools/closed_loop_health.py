"""Fraction of closed-loop rollouts that remain stable: `bridge drive`'s videos, by the measure of
`python -m train evaluate` (train/rollout_health.py).

    python -m tools.closed_loop_health drive-*.mp4 [--frames 40] [--weights DIR]

prints what became of each predicted drive after so many frames, and one JSON line. The first 16
frames of the simulator are what it is held against: a drive that ended before is dimmed there. How
much a sky differs in a true drive is what `evaluate --write` found, from the weights' manifest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from bridge.driving.page import GAP_PX, LABEL_PX
from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.plain_json import to_json
from train.rollout_health import ends, signs, truths
from train.rollouts import LONG


def worlds(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """The simulator's and the predicted frames (T H W 3) of a drive's video."""
    with av.open(str(video)) as file:
        pages = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    side = (pages.shape[2] - 3 * GAP_PX) // 2
    left, right = (
        pages[:, LABEL_PX : LABEL_PX + side, at : at + side] for at in (GAP_PX, 2 * GAP_PX + side)
    )
    return left, right


def lives(videos: list[Path], frames: int, covariance: np.ndarray) -> dict[str, list[str]]:
    """What is wrong with the last eight of each predicted drive's first `frames`, if anything."""
    both = [worlds(video) for video in videos]
    for video, (_, made) in zip(videos, both, strict=True):
        if len(made) < frames:
            raise InvalidInput("frames", frames, f"1..{len(made)}, the length of {video}")
    about = truths([true for true, _ in both])
    return {
        video.name: [k for k, v in ends(signs(made[:frames], truth, covariance)).items() if v]
        for video, (_, made), truth in zip(videos, both, about, strict=True)
    }


def measured_covariance(weights: Path | None) -> np.ndarray:
    """Of skies (3 3), from the manifest of weights (None: the shipped ones)."""
    folder = checkpoints.weights_dir("pocket", weights)
    found = checkpoints.read_manifest(folder).get("held_out", {}).get("long_rollouts", {})
    if "sky_covariance" not in found:
        given = f"{folder} without long_rollouts.sky_covariance"
        raise InvalidInput("weights", given, "weights that `train evaluate --write` measured")
    return np.array(found["sky_covariance"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.closed_loop_health", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=LONG)
    parser.add_argument("--weights", type=Path, help="the drives' weights (default: the shipped)")
    args = parser.parse_args()
    found = lives(sorted(args.videos), args.frames, measured_covariance(args.weights))
    for name, ended in found.items():
        print(f"{name}: {', '.join(ended) or 'a drive'}")
    alive = sum(not ended for ended in found.values())
    print(to_json({"drives": len(found), "frames": args.frames, "alive": alive}))


if __name__ == "__main__":
    main()
