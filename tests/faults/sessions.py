"""Sessions that are opened and abandoned, one after another."""

from __future__ import annotations

import time

import numpy as np

from tests.faults.clients import Bystander, pocket_reference, toy_reference
from tests.faults.clients_fail import await_freed
from tests.faults.driver import prompt_of
from tests.faults.processes import Server, pocket_server, require, toy_server
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient, frames_spec

TOY_SESSIONS, TOY_ROOM, SESSION_MIB = 200, 32, 4
POCKET_SESSIONS, POCKET_ROOM = 18, 4
LEASE_S = 1.0
POCKET_PERIOD_S = 0.5
# Above this a block of memory is a mapping of its own, which goes back when it is freed.
MMAP_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
GROWTH_MIB = 64.0
OPEN_TIMEOUT_S = 30.0


class Abandoner:
    """Opens sessions and never closes one; every other connection is cut, too."""

    def __init__(self, stage: Stage, server: Server, size: int) -> None:
        self._stage, self._server, self._size = stage, server, size
        self.refused = 0

    def abandon(self, number: int) -> None:
        """Waits for room; one step of every third session is under way when it is left."""
        raw = RawClient(self._server.endpoint)
        sid = self._open(raw, prompt_of(number, self._size))
        if number % 3 == 0:
            raw.send({"t": "step", "sid": sid, "step": 1})
        if number % 2:
            raw.close()
        else:
            self._stage.callback(raw.close)

    def _open(self, raw: RawClient, frames: np.ndarray) -> str:
        deadline_s = time.monotonic() + OPEN_TIMEOUT_S
        while True:
            reply = raw.ask({"t": "open", "arrays": [frames_spec(frames)]}, frames.tobytes())
            if reply["t"] == "opened":
                return str(reply["sid"])
            require(reply["code"] == "LIMIT", f"an open was answered with {reply}")
            require(time.monotonic() < deadline_s, "no session became free")
            self.refused += 1
            time.sleep(0.05)


def run_toy(stage: Stage) -> Figures:
    options = (f"--max-sessions={TOY_ROOM}", f"--lease-s={LEASE_S}", "--record", stage.folder / "r")
    server = stage.start(
        toy_server(*options, f"--session-mib={SESSION_MIB}", environment=MMAP_THRESHOLD)
    )
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(1)
    abandoner = Abandoner(stage, server, 32)
    figures = abandoned(
        stage,
        server,
        abandoner,
        TOY_SESSIONS,
        warm_up=TOY_ROOM - 1,
        live_mib=TOY_ROOM * SESSION_MIB,
    )
    scale = f"{SESSION_MIB} MiB a session, {TOY_SESSIONS * SESSION_MIB} in all"
    return {**figures, "caches": scale, **bystander.check_undisturbed(toy_reference)}


def run_pocket(stage: Stage) -> Figures:
    server = stage.start(pocket_server(f"--max-sessions={POCKET_ROOM}", f"--lease-s={LEASE_S}"))
    bystander = stage.start(Bystander(server.endpoint, period_s=POCKET_PERIOD_S))
    bystander.wait_for(1)
    abandoner = Abandoner(stage, server, 256)
    figures = abandoned(stage, server, abandoner, POCKET_SESSIONS, warm_up=2 * (POCKET_ROOM - 1))
    return {**figures, **bystander.check_undisturbed(pocket_reference)}


def abandoned(
    stage: Stage,
    server: Server,
    abandoner: Abandoner,
    sessions: int,
    *,
    warm_up: int,
    live_mib: float = 0.0,
) -> dict[str, str]:
    """Memory counts from where the first ``warm_up`` sessions have ended.

    ``live_mib``: what the sessions that are open at a time have.
    """
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    memory = server.memory(bound_mib=GROWTH_MIB)
    for number in range(1, sessions + 1):
        abandoner.abandon(number)
        if number == warm_up:
            await_freed(raw, left=1, lease_s=LEASE_S)
            memory = server.memory(bound_mib=GROWTH_MIB, peak_mib=GROWTH_MIB + live_mib)
    freed_s = await_freed(raw, left=1, lease_s=LEASE_S)
    return {
        "opened": str(sessions),
        "refused while full": str(abandoner.refused),
        "all freed": f"{freed_s:.1f} s after the last (lease {LEASE_S:g})",
        **memory.check(),
    }


FAULTS = (
    Fault(
        name=f"{TOY_SESSIONS} sessions abandoned",
        holds="leases free them all; memory is bounded",
        run=run_toy,
    ),
    Fault(
        name=f"{POCKET_SESSIONS} sessions abandoned (pocket)",
        holds="leases free their KV caches; memory is bounded",
        run=run_pocket,
    ),
)
