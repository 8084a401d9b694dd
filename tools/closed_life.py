"""How many closed-loop drives stay drives: `python -m bridge drive`'s videos, by the measure of
`python -m train evaluate` (train/rollouts.py).

    python -m tools.closed_life drive-*.mp4 [--frames 40]

prints what became of each predicted drive after so many frames, and one JSON line. The first 16
frames of the simulator are what it is held against: a drive that ended before is dimmed there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np

from bridge.driving.page import GAP_PX, LABEL_PX
from sim_stream.errors import InvalidInput
from train.rollouts import HORIZON, LONG, PROMPT, change, detail, life

TRUE = PROMPT + HORIZON  # frames of the simulator that a drive is held against


def worlds(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """The simulator's and the predicted frames (T H W 3) of a drive's video."""
    with av.open(str(video)) as file:
        pages = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    side = (pages.shape[2] - 3 * GAP_PX) // 2
    left, right = (
        pages[:, LABEL_PX : LABEL_PX + side, at : at + side] for at in (GAP_PX, 2 * GAP_PX + side)
    )
    return left, right


def lives(videos: list[Path], frames: int) -> dict[str, list[str]]:
    """What is wrong with the last eight of each predicted drive's first `frames`, if anything."""
    both = [worlds(video) for video in videos]
    for video, (_, made) in zip(videos, both, strict=True):
        if len(made) < frames:
            raise InvalidInput("frames", frames, f"1..{len(made)}, the length of {video}")
    details = [float(detail(true[:TRUE]).mean()) for true, _ in both]
    changes = [float(change(true[:TRUE]).mean()) for true, _ in both]
    restless = float(np.mean(np.divide(changes, details)))
    return {
        video.name: [k for k, v in life(made[:frames], d, restless * d).items() if v]
        for video, (_, made), d in zip(videos, both, details, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.closed_life", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=LONG)
    args = parser.parse_args()
    found = lives(sorted(args.videos), args.frames)
    for name, ends in found.items():
        print(f"{name}: {', '.join(ends) or 'a drive'}")
    alive = sum(not ends for ends in found.values())
    print(json.dumps({"drives": len(found), "frames": args.frames, "alive": alive}))


if __name__ == "__main__":
    main()
