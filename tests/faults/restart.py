"""The server is killed with -9 under load and started again, over and over.

Its clients are ordinary ones: they find the new server and go on, with the frames of a run that
nothing interrupted. The server makes their sessions again from its recordings.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.faults.clients import (
    POCKET_KEYS,
    DriverProcess,
    MakeReference,
    pocket_reference,
    toy_reference,
)
from tests.faults.processes import Server, pocket_server, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage

BACK_TIMEOUT_S = 60.0
# Between two kills every client gets so many frames, at the pocket model's 4 a second.
POCKET_KILLS, POCKET_STEPS, POCKET_PERIOD_S = 2, 8, 0.25
ABORTS, ABORT_STEPS, RESTART_S = 2, 15, 0.2
TOY_KILLS, TOY_STEPS, TOY_PERIOD_S, TOY_KEYS = 8, 30, 0.02, (1, 2, 3)
# From one kill of the toy to the next: often before all clients are back.
TOY_PAUSES_S = (0.05, 0.3, 0.8, 1.5, 2.5)

# Starts a server with these options.
Start = Callable[..., Server]


def run_pocket(stage: Stage) -> Figures:
    restarted = Restarted(stage, pocket_server, stage.folder / "recordings")
    drivers = [restarted.driver(key, period_s=POCKET_PERIOD_S) for key in POCKET_KEYS]
    gaps_s = [restarted.kill_after(drivers, POCKET_STEPS) for _ in range(POCKET_KILLS)]
    kills = {
        "kills": str(POCKET_KILLS),
        "all back after": f"{', '.join(f'{gap_s:.1f}' for gap_s in gaps_s)} s",
    }
    return kills | ended(drivers, POCKET_STEPS, pocket_reference)


def run_toy(stage: Stage) -> Figures:
    """At moments that the seed says."""
    restarted = Restarted(stage, toy_server, stage.folder / "recordings", "--step-ms=2")
    drivers = [restarted.driver(key, period_s=TOY_PERIOD_S) for key in TOY_KEYS]
    advance(drivers, TOY_STEPS)
    early = 0
    for _ in range(TOY_KILLS):
        before = [driver.step for driver in drivers]
        time.sleep(stage.random.choice(TOY_PAUSES_S))
        early += any(driver.step == had for driver, had in zip(drivers, before, strict=True))
        restarted.kill()
    kills = {"kills": f"{TOY_KILLS}, {early} of them before all were back"}
    return kills | ended(drivers, TOY_STEPS, toy_reference)


def run_aborted(stage: Stage) -> Figures:
    """As libzmq ends a process whose assertions fail; what docs/deploy has restarts it."""
    supervised = stage.start(Supervised(stage, "--record", stage.folder / "recordings"))
    drivers = [
        stage.start(DriverProcess(supervised.endpoint, key=key, period_s=TOY_PERIOD_S))
        for key in TOY_KEYS
    ]
    gaps_s = []
    for _ in range(ABORTS):
        advance(drivers, ABORT_STEPS)
        aborted_s = time.monotonic()
        supervised.abort()
        advance(drivers, ABORT_STEPS)
        gaps_s.append(time.monotonic() - aborted_s)
    ended_with = {signal.Signals(-status).name for status in supervised.statuses}
    figures = {
        "aborts": f"{len(supervised.statuses)} by {', '.join(sorted(ended_with))}",
        f"{ABORT_STEPS} steps on after": f"{', '.join(f'{gap_s:.1f}' for gap_s in gaps_s)} s",
    }
    return figures | ended(drivers, ABORT_STEPS, toy_reference)


class Supervised:
    """A server that whoever watches it starts again when it ends by itself, as systemd would."""

    def __init__(self, stage: Stage, *options: str | Path) -> None:
        self._stage, self._options = stage, options
        self.statuses: list[int] = []
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._server = self._stage.start(toy_server(*self._options))
        self.endpoint = self._server.endpoint
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watcher.join()

    def abort(self) -> None:
        """Ends the server of the moment as a failed assertion would."""
        before = len(self.statuses)
        self._server.signal(signal.SIGABRT)
        wait_until("it has ended", lambda: len(self.statuses) > before, timeout_s=BACK_TIMEOUT_S)

    def _watch(self) -> None:
        while not self._over.wait(RESTART_S):
            if not self._server.alive:
                self.statuses.append(self._server.end())
                again = toy_server(*self._options, f"--bind={self.endpoint}")
                self._server = self._stage.start(again)


class Restarted:
    """A recording server that comes back on the same port."""

    def __init__(self, stage: Stage, start: Start, folder: Path, *options: str) -> None:
        self._stage, self._start = stage, start
        self._options = ("--record", folder, *options)
        self._server: Server = stage.start(start(*self._options))
        self.endpoint = self._server.endpoint

    def driver(self, key: int, **how: float) -> DriverProcess:
        """Every second one has two steps in flight."""
        return self._stage.start(DriverProcess(self.endpoint, key=key, ahead=1 + key % 2, **how))

    def kill_after(self, drivers: Sequence[DriverProcess], steps: int) -> float:
        """Once all are so much further; seconds until all have another frame."""
        advance(drivers, steps)
        killed_s = time.monotonic()
        self.kill()
        advance(drivers, 1)
        return time.monotonic() - killed_s

    def kill(self) -> None:
        """SIGKILL; the next one starts at once."""
        self._server.kill()
        self._server = self._stage.start(self._start(*self._options, f"--bind={self.endpoint}"))


def advance(drivers: Sequence[DriverProcess], steps: int) -> None:
    """Until each has so many frames more. Raises Violated."""
    goals = [driver.step + steps for driver in drivers]
    for driver, goal in zip(drivers, goals, strict=True):
        driver.wait_for(goal, timeout_s=BACK_TIMEOUT_S)


def ended(drivers: Sequence[DriverProcess], steps: int, reference: MakeReference) -> dict[str, str]:
    """After the last restart all go on, close, and have got what they must get."""
    advance(drivers, steps)
    for driver in drivers:
        driver.finish()
    for driver in drivers:
        driver.check(reference)
    return {"clients": f"{len(drivers)}, {sum(driver.step for driver in drivers)} frames equal"}


FAULTS = (
    Fault(
        name="server killed under load",
        holds="clients go on by themselves; no committed step lost, frames as if uninterrupted",
        run=run_pocket,
    ),
    Fault(
        name=f"server killed {TOY_KILLS} times",
        holds="the same at any moment, also while clients come back",
        run=run_toy,
    ),
    Fault(
        name="server aborted under a supervisor",
        holds="it is started again, and clients go on by themselves; no committed step lost",
        run=run_aborted,
    ),
)
