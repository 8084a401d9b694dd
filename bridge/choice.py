"""Which world: the command line's options for it, and how each one is opened.

Knows every world by name; opens none before it is asked to.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from bridge.metadrive.world import MetaDriveWorld
from bridge.own_world import WorldFailed, open_own, open_own_road
from bridge.painted import PaintedWorld
from bridge.video_world import VideoWorld
from bridge.worlds import RoadWorld, World
from sim_stream.by_name import SPELLED, find_callable
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.wire.endpoints import port_of

W = TypeVar("W")
# From the parsed options and the side of the frame in pixels.
ROAD_WORLDS: dict[str, Callable[[argparse.Namespace, int], RoadWorld]] = {
    "metadrive": lambda options, size_px: MetaDriveWorld(size_px=size_px),
    "painted": lambda options, size_px: PaintedWorld(size_px=size_px),
    "carla": lambda options, size_px: open_carla(options, size_px),
}
WORLDS: dict[str, Callable[[argparse.Namespace, int], World]] = {
    **ROAD_WORLDS,
    "video": lambda options, size_px: open_video(options, size_px),
}


def add_options(parser: argparse.ArgumentParser, worlds: Mapping[str, object]) -> None:
    """`--world` among these or a user's own, and what opening them asks for."""
    help_text = f"the simulator: {', '.join(sorted(worlds))}, or MODULE:CALLABLE"
    parser.add_argument("--world", default="metadrive", metavar="NAME", help=help_text)
    carla = parser.add_argument_group("--world carla: a server that runs already")
    carla.add_argument(
        "--carla", metavar="HOST:PORT", default="127.0.0.1:2000", help="where it listens"
    )
    carla.add_argument("--town", metavar="NAME", help="map to load (default: the loaded one)")
    if "video" in worlds:
        video = parser.add_argument_group("--world video: a file, which no action changes")
        video.add_argument("--video", type=Path, metavar="FILE", help="what to play")
        video.add_argument("--start", type=float, metavar="S", default=0.0, help="from second S on")


def opener(options: argparse.Namespace) -> Callable[[int], World]:
    """What opens `--world`, given the side of its frame. Raises InvalidInput, WorldFailed."""
    return _opener(options, WORLDS, open_own)


def road_opener(options: argparse.Namespace) -> Callable[[int], RoadWorld]:
    """As `opener`, of a world that knows its road."""
    return _opener(options, ROAD_WORLDS, open_own_road)


def _opener(
    options: argparse.Namespace,
    worlds: Mapping[str, Callable[[argparse.Namespace, int], W]],
    open_named: Callable[[Callable[..., object], str, int], W],
) -> Callable[[int], W]:
    name = options.world
    if name in worlds:
        return partial(worlds[name], options)
    allowed = f"{', '.join(sorted(worlds))}, or {SPELLED}"
    return partial(
        open_named, find_callable("world", name, allowed=allowed, failed=WorldFailed), name
    )


def open_video(options: argparse.Namespace, size_px: int) -> VideoWorld:
    """Raises InvalidInput without a file. It is halved when it is read: half the size comes out."""
    if options.video is None:
        raise InvalidInput("--video", "nothing", "the file that --world video plays")
    return VideoWorld(options.video, size_px=size_px // 2, start_s=options.start)


def open_carla(options: argparse.Namespace, size_px: int) -> RoadWorld:
    """Raises InvalidInput for an impossible address, Unavailable without package or server."""
    host, _, port = options.carla.rpartition(":")
    if not host or not port_of(port):
        raise InvalidInput("--carla", options.carla, "HOST:PORT")
    try:
        from bridge.carla.world import CarlaWorld
    except ImportError as error:
        raise Unavailable(
            "the world `carla` needs CARLA's client package in the version of your server: "
            f"pip install carla==0.9.16 ({error})"
        ) from error
    return CarlaWorld(size_px=size_px, host=host, port=int(port), town=options.town)
