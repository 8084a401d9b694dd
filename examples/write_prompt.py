"""Writes two frames of a shipped clip as raw pixels: a prompt that the shipped model knows.

    python examples/write_prompt.py prompt.rgb [day|overcast|dusk|night]
    python examples/minimal_client.py tcp://127.0.0.1:5555 prompt.rgb
    build/bridge/cpp/drive 20 last.ppm prompt.rgb

uint8, RGB, 256 rows of 256 pixels, frame after frame: no reader needs more than the frame's size.
"""

import sys
from pathlib import Path

from sim_stream.config import FrameSize
from sim_stream.prompts import read_prompt

if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    prompt = read_prompt(
        None, size=FrameSize.square(256), clip=sys.argv[2] if len(sys.argv) > 2 else "day"
    )
    Path(sys.argv[1]).write_bytes(prompt.frames_THWC.tobytes())
