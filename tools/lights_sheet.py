"""Draws docs/lights.png: a predicted drive from each shipped clip, a row each.

    python -m tools.lights_sheet [--weights DIR] [--out docs/lights.png]

The prompt's last frame has a border; then every fourth predicted frame of the demo's script.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sim_stream.clips import CLIPS
from sim_stream.config import get_preset
from sim_stream.demo import action_script
from sim_stream.prompts import read_prompt
from sim_stream.runtime.runtime import Runtime
from sim_stream.video import Image, halve, mark_prompt, write_png

FRAMES, EVERY, SEED = 32, 4, 0


def drive(runtime: Runtime, clip: str) -> Image:
    """A row of the sheet."""
    prompt = read_prompt(None, clip=clip, size=get_preset("pocket").vq.image_size)
    with runtime.open_session() as session:
        session.reset(prompt.frames_THWC, seed=SEED, actions=prompt.actions)
        frames = [session.step(action) for action in action_script(FRAMES, prompt.speed_mps)]
        last = session.flush()
    shown = {f.frame_id: f.image for f in [*frames, *([last] if last else [])]}
    picked = [shown[frame_id] for frame_id in range(EVERY, FRAMES + 1, EVERY)]
    return np.concatenate([mark_prompt(prompt.frames_THWC[-1]), *picked], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/lights.png"))
    args = parser.parse_args()
    runtime = Runtime.load("pocket", weights=args.weights, device="cpu")
    rows = np.concatenate([drive(runtime, clip) for clip in CLIPS])
    write_png(args.out, halve(rows))


if __name__ == "__main__":
    main()
