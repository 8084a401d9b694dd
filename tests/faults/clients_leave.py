"""Clients that leave without a word, in every way but being killed: no session stays behind."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from contextlib import suppress

from sim_stream.errors import ConnectionLost
from sim_stream.wire.client.async_client import AsyncStreamClient
from sim_stream.wire.client.blocking_client import StreamClient
from tests.faults.clients import Bystander, toy_reference
from tests.faults.processes import require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import ROOT
from tests.wire.toy import prompt_frames

FRAMES = prompt_frames()
MAX_SESSIONS = 6
ROUNDS = 40
LEASE_S = 3600.0  # no lease helps here
STEP_MS = 5.0
FREED_S = 10.0
GROWTH_MIB = 128.0
PROGRAM = """
from sim_stream import StreamClient
from tests.wire.toy import prompt_frames
client = StreamClient({endpoint!r})
session = client.open(prompt_frames())
session.step()
raise SystemExit
"""


def run_leaving(stage: Stage) -> Figures:
    options = ("--lease-s", str(LEASE_S), "--max-sessions", str(MAX_SESSIONS))
    server = stage.start(toy_server(*options, f"--step-ms={STEP_MS:g}"))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(1)
    memory = server.memory(bound_mib=GROWTH_MIB)
    watch = stage.enter_context(StreamClient(server.endpoint))
    longest_s, begin_s = 0.0, time.monotonic()
    for number in range(ROUNDS):
        drop(server.endpoint, number)
        give_up(server.endpoint, number)
        asyncio.run(cancel(server.endpoint, number))
        left = lambda: watch.status().sessions == 1  # noqa: E731
        longest_s = max(longest_s, wait_until("only one session", left, timeout_s=FREED_S))
    end_program(server.endpoint)
    wait_until("only one session after a program's end", left, timeout_s=FREED_S)
    return {
        "ended": f"{ROUNDS * 6} sessions and openings in {time.monotonic() - begin_s:.1f} s",
        "left": "0",
        "gone after": f"{longest_s * 1e3:.0f} ms at most (lease {LEASE_S:g} s)",
        **memory.check(),
        **bystander.check_undisturbed(toy_reference),
    }


def drop(endpoint: str, seed: int) -> None:
    """Two sessions out of scope, one of them a fork; then their client."""
    client = StreamClient(endpoint)
    session = client.open(FRAMES, seed=seed)
    session.send_step()
    del session
    session = client.open(FRAMES, seed=seed)
    twin = session.fork()
    require(twin.step().step == 1, "a fork did not step")


def give_up(endpoint: str, seed: int) -> None:
    """An opening whose reply nobody waits for, or just so."""
    with StreamClient(endpoint) as client, suppress(ConnectionLost):
        client._connection.timeout_s = 0.0005 * (1 + seed % 8)
        client.open(FRAMES, seed=seed)


async def cancel(endpoint: str, seed: int) -> None:
    """Two openings, cancelled at some moment."""
    async with AsyncStreamClient(endpoint) as client:
        for wait_ms in itertools.islice(itertools.cycle((0.0, 1.0, 3.0)), seed % 3, seed % 3 + 2):
            with suppress(TimeoutError):
                await asyncio.wait_for(client.open(FRAMES, seed=seed), wait_ms / 1e3)


def end_program(endpoint: str) -> None:
    """One that opens a session and ends without closing anything."""
    program = PROGRAM.format(endpoint=endpoint)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    require(done.returncode == 0, f"the program that leaves: {done.stderr}")


FAULTS = (
    Fault(
        name="clients that leave without a word",
        holds="dropped, cancelled, given up or left open, none leaves a session at the server",
        run=run_leaving,
    ),
)
