"""The server is killed with -9 under load and started again, over and over.

Its clients are ordinary ones: they find the new server and go on, with the frames of a run that
nothing interrupted. The server makes their sessions again from its recordings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.clients import DriverProcess, pocket_references
from tests.faults.clients_fail import BYSTANDER, POCKET_STEPS, VICTIM
from tests.faults.processes import Server, Violated, pocket_server, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage

BACK_TIMEOUT_S = 60.0
TOY_STEPS, TOY_KILLS, TOY_CLIENTS = 240, 4, 3
TOY_PERIOD_S = 0.02  # so that all are under way at every kill

# Starts a server with these options.
Start = Callable[..., Server]


def run_pocket(stage: Stage) -> Figures:
    references = pocket_references((BYSTANDER, VICTIM), POCKET_STEPS)
    restarted = Restarted(stage, pocket_server, stage.folder / "recordings")
    drivers = [
        stage.start(DriverProcess(restarted.endpoint, key=key, steps=POCKET_STEPS, ahead=ahead))
        for key, ahead in ((BYSTANDER, 1), (VICTIM, 2))
    ]
    gaps_s = [restarted.kill_when(drivers, step) for step in (POCKET_STEPS // 4, POCKET_STEPS // 2)]
    for driver in drivers:
        finish(driver, POCKET_STEPS)
        driver.check(references[driver.key])
    return figures(drivers, gaps_s)


def run_toy(stage: Stage) -> Figures:
    restarted = Restarted(stage, toy_server, stage.folder / "recordings", "--step-ms=2")
    pace = {"steps": TOY_STEPS, "period_s": TOY_PERIOD_S}
    drivers = [
        stage.start(DriverProcess(restarted.endpoint, key=key, ahead=1 + key % 2, **pace))
        for key in range(1, TOY_CLIENTS + 1)
    ]
    steps = [TOY_STEPS * (1 + kill) // (TOY_KILLS + 1) for kill in range(TOY_KILLS)]
    gaps_s = [restarted.kill_when(drivers, step) for step in steps]
    for driver in drivers:
        finish(driver, TOY_STEPS)
        driver.check()
    return figures(drivers, gaps_s)


class Restarted:
    """A recording server that comes back on the same port."""

    def __init__(self, stage: Stage, start: Start, folder: Path, *options: str) -> None:
        self._stage, self._start = stage, start
        self._options = ("--record", folder, *options)
        self._server: Server = stage.start(start(*self._options))
        self.endpoint = self._server.endpoint

    def kill_when(self, drivers: Sequence[DriverProcess], step: int) -> float:
        """Once all are that far; seconds until all have another frame."""
        for driver in drivers:
            driver.wait_for(step, timeout_s=BACK_TIMEOUT_S)
        self._server.kill()
        killed_s = time.monotonic()
        before = [driver.step for driver in drivers]
        self._server = self._stage.start(self._start(*self._options, f"--bind={self.endpoint}"))
        for driver, had in zip(drivers, before, strict=True):
            driver.wait_for(had + 1, timeout_s=BACK_TIMEOUT_S)
        return time.monotonic() - killed_s


def finish(driver: DriverProcess, steps: int) -> None:
    driver.wait_for(steps, timeout_s=BACK_TIMEOUT_S)
    wait_until(f"{driver} closes", lambda: driver.closed or driver.error is not None, timeout_s=30)
    if driver.error is not None:
        raise Violated(f"{driver} could not close: {driver.error['message']}")


def figures(drivers: Sequence[DriverProcess], gaps_s: Sequence[float]) -> Figures:
    require(len(gaps_s) > 0, "the server was never killed")
    return {
        "kills": str(len(gaps_s)),
        "clients": f"{len(drivers)}, {sum(driver.step for driver in drivers)} frames equal",
        "all back after": f"{', '.join(f'{gap_s:.1f}' for gap_s in gaps_s)} s",
    }


FAULTS = (
    Fault(
        name="server killed under load (pocket)",
        holds="clients go on by themselves; no committed step lost, frames as if uninterrupted",
        run=run_pocket,
    ),
    Fault(
        name=f"server killed {TOY_KILLS} times under load",
        holds="the same, again and again",
        run=run_toy,
    ),
)
