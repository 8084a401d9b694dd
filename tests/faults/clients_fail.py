"""Clients that die or stand still in the middle of a step."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable

from tests.faults.clients import (
    VICTIM,
    Bystander,
    DriverProcess,
    MakeReference,
    Reference,
    pocket_reference,
    toy_reference,
)
from tests.faults.driver import action_of
from tests.faults.processes import Server, pocket_server, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient

LEASE_S = 1.2
# Until a busy engine has closed a session whose lease ran out.
LEASE_SLACK_S = 10.0
STEPS_KEPT = 3
VICTIM_STEPS = 20  # more than it gets before it is killed, and after
STOPS = 2
GROWTH_MIB = 128.0  # three sessions of the pocket model, as they open, compute and end


def run_killed_pocket(stage: Stage) -> Figures:
    expected = pocket_reference(VICTIM, VICTIM_STEPS)
    server = stage.start(pocket_server("--lease-s", str(LEASE_S)))
    bystander = stage.start(Bystander(server.endpoint, period_s=0.25))
    return killed(stage, server, bystander, pocket_reference, expected, kills=3)


def run_killed_toy(stage: Stage) -> Figures:
    server = stage.start(toy_server("--lease-s", str(LEASE_S), "--step-ms=10"))
    bystander = stage.start(Bystander(server.endpoint))
    expected = toy_reference(VICTIM, VICTIM_STEPS)
    return killed(stage, server, bystander, toy_reference, expected, kills=1)


def killed(
    stage: Stage,
    server: Server,
    bystander: Bystander,
    reference: MakeReference,
    expected: Reference,
    *,
    kills: int,
) -> Figures:
    """Kills one client after another; each one's session is taken over, then left to its lease.

    ``expected``: the victims' frames.
    """
    bystander.wait_for(1)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    memory = server.memory(bound_mib=GROWTH_MIB)
    carried, freed_s = 0, []
    for kill in range(kills):
        sid, sent = kill_mid_step(stage, server.endpoint, step=4 + kill)
        carried += carry_on(raw, sid, sent, expected)
        freed_s.append(await_freed(raw, left=1))
    return {
        "kills": str(kills),
        "steps carried on": str(carried),
        "freed after": f"{max(freed_s):.1f} s (lease {LEASE_S:g})",
        **memory.check(),
        **bystander.check_undisturbed(reference),
    }


def kill_mid_step(stage: Stage, endpoint: str, *, step: int) -> tuple[str, int]:
    """Its session and the step that it had just sent."""
    victim = stage.start(DriverProcess(endpoint, key=VICTIM))
    victim.wait_for_sent(step)
    victim.kill()
    require(victim.step < victim.sent or not victim.closed, "the client was not killed in time")
    return victim.sid, victim.sent


def carry_on(raw: RawClient, sid: str, sent: int, reference: Reference) -> int:
    """Goes on with a dead client's session: its last step again, then new ones."""
    committed = raw.ask({"t": "heartbeat", "sid": sid})["committed_step"]
    require(sent - 1 <= committed <= sent, f"step {sent} was sent, {committed} is committed")
    for step in range(sent, sent + STEPS_KEPT + 1):
        reply = ask_step(raw, sid, step)
        require(reply["t"] == "frames", f"step {step} of the dead client's session: {reply}")
        shown = hashlib.sha256(reply["parts"][0]).hexdigest()
        require(shown == reference[step], f"step {step} after the kill brought another frame")
    return STEPS_KEPT


def ask_step(raw: RawClient, sid: str, step: int) -> dict[str, object]:
    action = action_of(step)
    fields = {"speed_mps": action.speed_mps, "yaw_rate_radps": action.yaw_rate_radps}
    return raw.ask({"t": "step", "sid": sid, "step": step, "inputs": fields, "sim_time_us": step})


def await_freed(raw: RawClient, *, left: int, lease_s: float = LEASE_S) -> float:
    """Until only so many sessions are left; seconds. Raises Violated when the lease does not."""
    sessions: Callable[[], bool] = lambda: raw.ask({"t": "heartbeat"})["sessions"] <= left  # noqa: E731
    return wait_until("the lease frees the session", sessions, timeout_s=lease_s + LEASE_SLACK_S)


def run_stopped(stage: Stage) -> Figures:
    """Stopped for less than a lease, with two steps in flight; then for longer."""
    server = stage.start(toy_server("--lease-s", str(LEASE_S), "--step-ms=5"))
    bystander = stage.start(Bystander(server.endpoint))
    victim = stage.start(DriverProcess(server.endpoint, key=VICTIM, ahead=2, timeout_s=LEASE_S))
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    memory = server.memory(bound_mib=GROWTH_MIB)
    for _ in range(STOPS):
        victim.wait_for(victim.step + 5)
        stop_for(victim, 0.5 * LEASE_S)
    victim.wait_for(victim.step + 5)
    survived_at = victim.step
    victim.signal(signal.SIGSTOP)
    freed_s = await_freed(raw, left=1)
    victim.signal(signal.SIGCONT)
    wait_until("the client hears of its lease", lambda: victim.error is not None, timeout_s=10)
    assert victim.error is not None
    require(victim.error["code"] == "NO_SESSION", f"the client was told {victim.error}")
    victim.check(toy_reference)
    return {
        "stops": f"{STOPS} within the lease, 1 beyond",
        "frames": f"{victim.step} equal, {survived_at} before the lease ended",
        "freed after": f"{freed_s:.1f} s (lease {LEASE_S:g})",
        "told": victim.error["code"],
        **memory.check(),
        **bystander.check_undisturbed(toy_reference),
    }


def stop_for(victim: DriverProcess, seconds: float) -> None:
    victim.signal(signal.SIGSTOP)
    time.sleep(seconds)
    victim.signal(signal.SIGCONT)


FAULTS = (
    Fault(
        name="client killed mid-step",
        holds="its step is taken once and can be asked for again; the lease frees the session",
        run=run_killed_pocket,
    ),
    Fault(
        name="client stopped and continued",
        holds="within its lease it goes on without a gap; beyond it is told NO_SESSION",
        run=run_stopped,
    ),
)
