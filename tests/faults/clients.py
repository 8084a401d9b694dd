"""The runner's side of a driver process: what it got, held against what it must get.

Knows no fault. ``reference`` is what a session of that key brings where nothing ever goes wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from sim_stream.recording.pixels import sha256_of
from sim_stream.spec import StreamSpec
from tests.faults.driver import action_of, prompt_of
from tests.faults.processes import Child, Violated, pocket_server, require, wait_until
from tests.wire.toy import SPEC, ToyModel

# A bystander that waits longer than eight frames of 4 fps was disturbed, unless the machine is so
# busy that all its frames take long.
STALL_MS, STALL_MEDIANS = 2000.0, 5
FRAME_TIMEOUT_S = 30.0
SLOWEST_STEP_S = 5.0  # of the pocket model on a machine that does much else

BYSTANDER, VICTIM = POCKET_KEYS = 1, 2
POCKET_BLOCK = 24  # steps of its reference that are made at a time

# What step n brings, at index n; 0 is the frame that came with the opening.
Reference = Sequence[str]
# Of a key, with so many steps at least.
MakeReference = Callable[[int, int], Reference]


@dataclass(frozen=True)
class Seen:
    """A frame that a client got."""

    step: int
    frame_id: int
    committed_step: int
    sha256: str
    latency_ms: float
    stamps_ns: dict[str, int]


class DriverProcess(Child):
    """``tests.faults.driver``; its frames, errors and losses as they come."""

    def __init__(self, endpoint: str, *, key: int, **how: Any) -> None:
        prefix, environment = how.pop("prefix", ()), how.pop("environment", None)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in how.items()]
        super().__init__(
            "tests.faults.driver",
            *(f"--endpoint={endpoint}", f"--key={key}", *options),
            prefix=prefix,
            environment=environment,
        )
        self.key = key
        self.sid = self.epoch = ""
        self.frames: list[Seen] = []
        self.sent = 0
        self.losses = 0
        self.error: dict[str, str] | None = None
        self.closed = False

    def hear(self, line: str) -> None:
        event = json.loads(line)
        match event.pop("t"):
            case "opened":
                self.epoch, self.sid = event["epoch"], event["sid"]
            case "first" | "frame":
                self.frames.append(Seen(**event))
            case "sent":
                self.sent = event["step"]
            case "lost":
                self.losses += 1
            case "error":
                self.error = event
            case "closed":
                self.closed = True

    @property
    def step(self) -> int:
        """The last one whose frame it has; -1 before the session is open."""
        return self.frames[-1].step if self.frames else -1

    def wait_for(self, step: int, *, timeout_s: float = FRAME_TIMEOUT_S) -> None:
        """Until it has that step's frame. Raises Violated."""
        self._await(f"{self} has frame {step}", lambda: self.step >= step, timeout_s)

    def wait_for_sent(self, step: int, *, timeout_s: float = FRAME_TIMEOUT_S) -> None:
        """Until that step is under way. Raises Violated."""
        self._await(f"{self} sends step {step}", lambda: self.sent >= step, timeout_s)

    def finish(self) -> None:
        """Lets it close its session. Raises Violated where it could not."""
        status = self.end()
        if status or not self.closed:
            raise Violated(f"{self} ended with {status}: {self.error or self.said[-1:]}")

    def check(self, reference: MakeReference) -> None:
        """Its frames against those of an undisturbed run. Raises Violated."""
        check_frames(self.frames, reference(self.key, max(self.step, 0)), str(self))

    def __str__(self) -> str:
        return f"client {self.key}"

    def _await(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        def checked() -> bool:
            if self.error is not None:
                raise Violated(f"{self} failed at step {self.step}: {self.error['message']}")
            if not holds():
                self.require_alive()
                return False
            return True

        wait_until(what, checked, timeout_s=timeout_s)


class Bystander(DriverProcess):
    """Steps all along, whatever happens to the others; must not notice."""

    def __init__(
        self, endpoint: str, *, key: int = BYSTANDER, period_s: float = 0.02, **how: Any
    ) -> None:
        super().__init__(endpoint, key=key, period_s=period_s, **how)

    def __str__(self) -> str:
        return "the bystander"

    def check_undisturbed(
        self, reference: MakeReference, *, stall_ms: float | None = None
    ) -> dict[str, str]:
        """Ends it; its figures. ``stall_ms``: how long it may wait. Raises Violated."""
        self.finish()
        self.check(reference)
        latencies_ms = [frame.latency_ms for frame in self.frames[1:]]
        require(len(latencies_ms) > 0, "the bystander has no frame")
        p50_ms, worst_ms = median(latencies_ms), max(latencies_ms)
        if stall_ms is None:
            stall_ms = max(STALL_MS, STALL_MEDIANS * p50_ms)
        require(worst_ms < stall_ms, f"the bystander waited {worst_ms:.0f} ms for a frame")
        require(self.losses == 0, f"the bystander lost its connection {self.losses} times")
        return {
            "bystander": f"{len(latencies_ms)} frames equal, p50 {p50_ms:.1f}, "
            f"worst {worst_ms:.0f} ms"
        }


def check_frames(frames: Sequence[Seen], reference: Reference, who: str) -> None:
    """Every frame once, in order, none missing, all as in the reference. Raises Violated."""
    for expected, frame in enumerate(frames):
        if frame.step != expected:
            how = "twice or out of order" if frame.step < expected else "after a gap"
            raise Violated(f"{who} got frame {frame.step} {how}, expected {expected}")
        require(frame.step < len(reference), f"{who}: frame {frame.step} is beyond the reference")
        require(
            frame.sha256 == reference[frame.step],
            f"{who}: frame {frame.step} differs from the undisturbed run's",
        )
        require(
            frame.committed_step >= frame.step,
            f"{who}: frame {frame.step} came with committed step {frame.committed_step}",
        )


def toy_reference(key: int, steps: int, *, spec: StreamSpec = SPEC) -> Reference:
    """The toy's frames without any wire."""
    session = ToyModel(spec).open_session()
    prompt = prompt_of(key, spec.frame_shape[0])
    hashes = [sha256_of(session.reset(prompt, seed=key).images[-1])]
    hashes += [sha256_of(session.step(action_of(n)).image) for n in range(1, steps + 1)]
    return hashes


def pocket_reference(key: int, steps: int) -> Reference:
    """The pocket model's frames from a server that serves nobody else."""
    return _pocket_frames(key).first(steps)


class PocketFrames:
    """Of one key; made again, and longer, when more of them are asked for."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._hashes: Reference = []

    def first(self, steps: int) -> Reference:
        if steps >= len(self._hashes):
            self._make(POCKET_BLOCK * math.ceil((steps + 1) / POCKET_BLOCK))
        return self._hashes

    def _make(self, steps: int) -> None:
        with (
            pocket_server() as server,
            DriverProcess(server.endpoint, key=self._key, steps=steps, ahead=2) as driver,
        ):
            driver.wait_for(steps, timeout_s=FRAME_TIMEOUT_S + SLOWEST_STEP_S * steps)
            driver.finish()
        self._hashes = [frame.sha256 for frame in driver.frames]


_pocket_frames = cache(PocketFrames)
