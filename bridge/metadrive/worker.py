"""The MetaDrive worker: answers reset and step over stdin and stdout until stdin closes.

Runs as a script inside the environment that `make metadrive` builds, so it imports the standard
library, numpy, msgspec, metadrive and its two neighbours here, never the rest of this repository.
It does not know who drives or why: it is told a scenario, then a steering and a throttle per frame.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from typing import Any

from framing import PipeClosed, read_message, write_message


def claim_stdout() -> int:
    """The real stdout's descriptor; what the simulator prints goes to stderr from here on."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


def serve(requests: int, replies: int, size_px: int) -> None:
    """Answer every request with one reply; a failed request is answered with its traceback."""
    from simulator import Simulator  # after claim_stdout: the import prints

    simulator = Simulator(size_px=size_px)
    write_message(replies, {"ok": True, "ready": True})
    while True:
        request = read_message(requests)
        try:
            reply = answer(simulator, request)
        except Exception:  # the parent gets it, whatever it is, and decides
            reply = {"ok": False, "error": traceback.format_exc()}
        write_message(replies, reply)
        if request.get("op") == "close":
            return


def answer(simulator: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; an unknown operation is an error."""
    match request.get("op"):
        case "reset":
            return {"ok": True, **simulator.reset(request["seed"], request["scenario"])}
        case "step":
            return {"ok": True, **simulator.step(request["steer"], request["throttle"])}
        case "close":
            simulator.close()
            return {"ok": True}
    raise ValueError(f"unknown operation {request.get('op')!r}")


def smoke(size_px: int) -> int:
    """Render one frame of a straight road; 0 if it shows something."""
    from simulator import Simulator

    scenario = {
        "blocks": "S", "lanes": 2, "lane_width_m": 3.5, "traffic": 0.0, "start_speed_mps": 0.0,
        "light": "day",
    }  # fmt: skip
    frame = Simulator(size_px=size_px).reset(0, scenario)["frame"]
    shades = len(set(frame))
    print(f"a frame of {size_px} x {size_px} with {shades} shades", file=sys.stderr)
    return 0 if shades > 50 else 1  # sky, grass and asphalt have far more; a blank frame has one


def main() -> int:
    parser = argparse.ArgumentParser(description="MetaDrive behind two pipes (see world.py)")
    parser.add_argument("--size-px", type=int, required=True, help="side of the square frame")
    parser.add_argument("--smoke", action="store_true", help="render one frame and leave")
    options = parser.parse_args()
    replies = claim_stdout()
    if options.smoke:
        return smoke(options.size_px)
    with contextlib.suppress(PipeClosed):  # the parent is gone: nothing to do, nobody to tell
        serve(0, replies, options.size_px)
    return 0


if __name__ == "__main__":
    sys.exit(main())
