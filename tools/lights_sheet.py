"""Draws docs/lights.png and docs/off_road.png: a predicted drive a row, from each shipped clip.

    python -m tools.lights_sheet [--script demo|off-road] [--weights DIR] [--out FILE]

The prompt's last frame has a border; then every fourth predicted frame of the script: the demo's,
or one that leaves the road to the right, drives on beside it and comes back.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from sim_stream import console
from sim_stream.clips import CLIPS
from sim_stream.config import Action, get_preset
from sim_stream.console import Parser
from sim_stream.demo import action_script
from sim_stream.outputs import try_file
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.prompts import read_prompt
from sim_stream.video import Image, halve, mark_prompt, write_png

FRAMES, EVERY, SEED = 32, 4, 0
OFF_ROAD_RADPS = [*[0.0] * 2, *[-0.3] * 5, *[0.0] * 9, *[0.3] * 10, *[0.0] * 6]
SHEETS = {"demo": Path("docs/lights.png"), "off-road": Path("docs/off_road.png")}


def script_of(name: str, speed_mps: float) -> list[Action]:
    if name == "demo":
        return action_script(FRAMES, speed_mps)
    return [Action(speed_mps=speed_mps, yaw_rate_radps=rate) for rate in OFF_ROAD_RADPS]


def drive(runtime: Runtime, clip: str, script: str) -> Image:
    """A row of the sheet."""
    prompt = read_prompt(None, clip=clip, size=get_preset("pocket").vq.frame)
    with runtime.open_session() as session:
        session.reset(prompt.frames_THWC, seed=SEED, actions=prompt.actions)
        frames = [session.step(action) for action in script_of(script, prompt.speed_mps)]
        last = session.flush()
    shown = {f.frame_id: f.image for f in [*frames, *([last] if last else [])]}
    picked = [shown[frame_id] for frame_id in range(EVERY, FRAMES + 1, EVERY)]
    return np.concatenate([mark_prompt(prompt.frames_THWC[-1]), *picked], axis=1)


def main() -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--script", choices=SHEETS, default="demo")
    parser.add_argument("--out", type=Path)
    return console.run(parser, None, draw)


def draw(args: argparse.Namespace) -> int:
    out = args.out or SHEETS[args.script]
    try_file("out", out)
    runtime = Runtime.load("pocket", weights=args.weights, device="cpu")
    rows = np.concatenate([drive(runtime, clip, args.script) for clip in CLIPS])
    write_png(out, halve(rows))
    return console.OK


if __name__ == "__main__":
    sys.exit(main())
