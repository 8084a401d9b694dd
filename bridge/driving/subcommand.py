"""`python -m bridge drive`: opens server, world and policy, drives, and keeps what came of it.

Of every drive there is an MP4 with both worlds side by side, a PNG of it at a glance and a JSON
line per frame. Whatever ends a drive, Ctrl-C too, these are finished and readable up to there; its
summary, a JSON file, is there only when it went on to its end.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from bridge.driving.kept import KeptDrive
from bridge.driving.loop import Loop, See
from bridge.driving.page import Page
from bridge.policies.contract import Policy
from bridge.scenarios import Split, drive_seed
from bridge.worlds import RoadWorld, SceneFailed, World
from sim_stream.config import FrameSize, get_preset
from sim_stream.errors import InvalidInput
from sim_stream.model_options import ModelOptions
from sim_stream.outputs import try_file
from sim_stream.server_process import ServerProcess
from sim_stream.wire.client.blocking_client import StreamClient

MAX_FRAMES, MAX_LEAD_IN = 1_000_000, 10_000
OUTPUTS = (".mp4", ".jsonl", ".png", ".json")
OpenWorld = Callable[[int], World]  # from the side of its frame in pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriveOptions:
    """What `drive` takes. `seed`: index of the first drive in its split. `server` None: our own,
    with `preset`, `weights` and `threads`; to a `server` go `key` and `server_key`."""

    world: str
    policy: str = "lane-keep"
    see: See = "neural"
    split: Split = "val"
    seed: int = 0
    drives: int = 1
    frames: int = 80
    lead_in: int = 8
    out: Path = Path("drive.mp4")
    server: str | None = None
    key: Path | None = None
    server_key: Path | None = None
    preset: str = "pocket"
    weights: Path | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("drives", 1), ("lead_in", 0), ("seed", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise InvalidInput(f"--{option}", getattr(self, name), f"{least} or more")
        for name, most in (("frames", MAX_FRAMES), ("lead_in", MAX_LEAD_IN)):
            if getattr(self, name) > most:
                option = name.replace("_", "-")
                raise InvalidInput(f"--{option}", getattr(self, name), f"{most} at most")
        if self.server is None and (self.key or self.server_key):
            raise InvalidInput("--key", self.key or self.server_key, "none without --server")
        get_preset(self.preset)
        if self.out.suffix != ".mp4":
            raise InvalidInput("--out", self.out, "a name that ends in .mp4")
        drive_seed(self.split, self.seed + self.drives - 1)

    def out_of(self, seed: int) -> Path:
        """The MP4 of one drive; of several, each is named after its seed."""
        if self.drives == 1:
            return self.out
        return self.out.with_name(f"{self.out.stem}-{seed:06d}.mp4")

    def try_outputs(self) -> None:
        """The files of the first drive; those of others differ by a number. Raises InvalidInput."""
        first = self.out_of(drive_seed(self.split, self.seed))
        for suffix in OUTPUTS:
            try_file("--out", first.with_suffix(suffix))


def run(options: DriveOptions, open_world: OpenWorld) -> dict[str, Any]:
    """All drives; gives the summary. Raises SimStreamError."""
    options.try_outputs()
    policy = Policy(options.policy)
    with ExitStack() as stack:
        server, endpoint = None, options.server
        if endpoint is None:
            server = stack.enter_context(_own_server(options))
            endpoint = server.endpoint
        client = stack.enter_context(
            StreamClient(endpoint, key=options.key, server_key=options.server_key)
        )
        driver = _Driver(options, client, policy, open_world)
        stack.callback(driver.close)
        with server.answering() if server else nullcontext():
            drives = [driver.drive(drive_seed(options.split, i)) for i in _indices(options)]
        return {
            "world": options.world,
            "policy": options.policy,
            "see": options.see,
            "model_id": client.info.spec.model_id,
            "weights_sha256": client.info.spec.weights_sha256,
            **totals(drives),
            "drives": drives,
        }


def _indices(options: DriveOptions) -> range:
    return range(options.seed, options.seed + options.drives)


def _own_server(options: DriveOptions) -> ServerProcess:
    model = ModelOptions(preset=options.preset, weights=options.weights, threads=options.threads)
    return ServerProcess(model.serve_options())


class _Driver:
    """Drives one seed after the other in one world, and in a new one after a scene failed."""

    def __init__(
        self, options: DriveOptions, client: StreamClient, policy: Policy, open_world: OpenWorld
    ) -> None:
        self._options, self._client, self._policy = options, client, policy
        self._open_world = open_world
        self._world: World | None = None

    def drive(self, seed: int) -> dict[str, Any]:
        """The summary of one drive. With several, a failed scene is one of them, not the end."""
        if self._world is None:
            height, width, _ = self._client.info.spec.frame_shape
            if height != width:
                given = f"{self._client.info.spec.model_id} of {height}x{width} pixels"
                raise InvalidInput("server", given, "one of square frames, as the worlds' are")
            # Twice the model's side: its frames were made from twice as many pixels in training.
            self._world = self._open_world(2 * height)
        try:
            return self._drive(self._world, seed)
        except SceneFailed as error:
            self.close()
            if self._options.drives == 1:
                raise
            return {"seed": seed, "frames": 0, "end": "failed", "error": str(error)}

    def close(self) -> None:
        if self._world is not None:
            self._world.close()
        self._world = None

    def _drive(self, world: World, seed: int) -> dict[str, Any]:
        options = self._options
        loop = Loop(
            world,
            self._client,
            self._policy,
            frames=options.frames,
            lead_in=options.lead_in,
            see=options.see,
        )
        start_s = time.monotonic()
        drive = self._kept(world, seed)
        with drive, logging_redirect_tqdm():  # a warning of the prompt gets a line of its own
            for moment in loop.run(seed):
                drive.add(moment)
        return drive.finish(
            {"seed": seed, **(world.describe(seed) if isinstance(world, RoadWorld) else {})},
            {
                "prompt_psnr_db": rounded(loop.prompt_psnr_db),
                "prompt_is_foreign": loop.prompt_is_foreign,
                "wall_s": round(time.monotonic() - start_s, 1),
            },
        )

    def _kept(self, world: World, seed: int) -> KeptDrive:
        options, spec = self._options, self._client.info.spec
        height, width, _ = spec.frame_shape
        scene = f"seed {seed}" if world.car else "which no action changes"
        page = Page(
            simulator=f"{options.world}, {scene}",
            neural=f"predicted by {spec.model_id}",
            size=FrameSize(height=height, width=width),
            frames=options.frames,
        )
        return KeptDrive(
            options.out_of(seed),
            page,
            frames=options.frames,
            frame_s=1.0 / world.fps,
            name=f"drive {seed}",
        )


def rounded(psnr_db: float | None) -> float | None:
    return None if psnr_db is None else round(psnr_db, 2)


def totals(drives: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all drives: frames, how drives ended, and how long the worlds stayed on the road."""
    ends = Counter(drive["end"] for drive in drives)
    found: dict[str, Any] = {
        "frames": sum(drive["frames"] for drive in drives),
        "wall_s": round(sum(drive.get("wall_s", 0.0) for drive in drives), 1),
        "ends": dict(ends),
    }
    for name in ("psnr_db", "difference", "on_road_s", "lane_neural_s", "asphalt_neural_s"):
        values = [drive[name] for drive in drives if name in drive]
        if values:
            found[f"{name}_median"] = round(statistics.median(values), 4)
    return found
