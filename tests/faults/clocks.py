"""The wall clock jumps, and clocks that never agreed.

Leases, timeouts and stamps must follow monotonic clocks alone, and none of one process may be
compared with another's. ``clock.c``, preloaded into server and clients, shifts their time of day.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sim_stream.errors import Unavailable
from sim_stream.recording.load import load
from tests.faults.clients import Bystander, DriverProcess, Seen, toy_reference
from tests.faults.clients_fail import await_freed
from tests.faults.namespaces import unshared
from tests.faults.processes import require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.conftest import RawClient

SOURCE = Path(__file__).with_name("clock.c")
LEASE_S = 1.5
GROWTH_MIB = 64.0  # a video encoder for every session that is recorded
DAY_S = 86_400
JUMPS_S = (DAY_S, -2 * DAY_S, 365 * DAY_S, -3600, 0)
STORM, STORM_PERIOD_S = 60, 0.03
PATH_NS = ("srv_recv", "engine_start", "engine_end", "decode_start", "decode_end", "srv_send")


class WallClock:
    """The time of day of all processes that run in its ``environment``."""

    def __init__(self, folder: Path) -> None:
        library = folder / "clock.so"
        build([str(SOURCE), "-o", str(library)])
        self._file = folder / "clock"
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self._file)}
        self.jumps = 0

    def jump(self, seconds: int) -> None:
        """To so many seconds off the true time."""
        with open(self._file, "r+b", buffering=0) as file:
            file.write(struct.pack("=q", seconds))
        self.jumps += 1


def build(arguments: Sequence[str]) -> None:
    """Raises Unavailable without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler (cc) for the preloaded clock")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", *arguments, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"the preloaded clock does not compile here: {done.stderr.strip()[:200]}")


def run_wall(stage: Stage) -> Figures:
    clock = WallClock(stage.folder)
    records = stage.folder / "recordings"
    options = (f"--lease-s={LEASE_S}", "--step-ms=2", "--record", records)
    server = stage.start(toy_server(*options, environment=clock.environment))
    here = {"environment": clock.environment, "timeout_s": LEASE_S}
    bystander = stage.start(Bystander(server.endpoint, **here))
    pausing = stage.start(DriverProcess(server.endpoint, key=2, period_s=0.6 * LEASE_S, **here))
    pausing.wait_for(1)
    # Their recordings are named after the time before the first jump.
    wait_until("recordings begin", lambda: len([*records.glob("*.jsonl")]) >= 2, timeout_s=10)
    memory = server.memory(bound_mib=GROWTH_MIB)
    for seconds in JUMPS_S:
        clock.jump(seconds)
        bystander.wait_for(bystander.step + 15)
    raw = RawClient(server.endpoint)
    stage.callback(raw.close)
    raw.open()
    freed_s = storm(clock, raw)
    clock.jump(DAY_S)
    late = stage.start(DriverProcess(server.endpoint, key=3, steps=10, **here))
    late.wait_for(10)
    late.finish()
    pausing.finish()
    figures = bystander.check_undisturbed(toy_reference)
    for driver in (pausing, late):
        driver.check(toy_reference)
        require(driver.losses == 0, f"{driver} met {driver.losses} timeouts")
    for driver in (bystander, pausing, late):
        check_stamps(driver.frames)
    seen_h = (created(records, late.sid) - created(records, bystander.sid)).total_seconds() / 3600
    require(seen_h > 23, f"the server's time of day moved by {seen_h:.1f} h only")
    return {
        "jumps": f"{clock.jumps}, up to a year",
        "seen by the server": f"{seen_h:+.0f} h in its recordings",
        "lease under the storm": f"{freed_s:.1f} s of {LEASE_S:g}",
        "client that pauses": f"{pausing.step} frames equal",
        **memory.check(),
        **figures,
    }


def storm(clock: WallClock, raw: RawClient) -> float:
    """An hour forth and back all the time, until the abandoned session's lease ends; seconds."""
    start_s = time.monotonic()
    for number in range(STORM):
        clock.jump(3600 if number % 2 else -3600)
        time.sleep(STORM_PERIOD_S)
        if raw.ask({"t": "heartbeat"})["sessions"] == 2:
            break
    await_freed(raw, left=2)
    freed_s = time.monotonic() - start_s
    require(freed_s > LEASE_S - 0.1, f"a lease of {LEASE_S:g} s ended after {freed_s:.2f} s")
    return freed_s


def check_stamps(frames: Sequence[Seen]) -> None:
    """Each frame's stamps rise along its way and fit into the time that its client waited."""
    before_ns = 0
    for frame in frames:
        path_ns = [frame.stamps_ns[name] for name in PATH_NS if name in frame.stamps_ns]
        require(path_ns == sorted(path_ns), f"stamps of frame {frame.step} fall: {frame.stamps_ns}")
        require(path_ns[0] > before_ns, f"frame {frame.step} was received before the last one")
        before_ns = path_ns[0]
        server_ms = (path_ns[-1] - path_ns[0]) / 1e6
        require(
            server_ms <= frame.latency_ms,
            f"frame {frame.step}: {server_ms:.1f} of {frame.latency_ms:.1f} ms in the server",
        )


def created(folder: Path, sid: str) -> datetime:
    """When that session's recording began, by the server's time of day."""
    (path,) = folder.glob(f"*{sid}.jsonl")
    return datetime.fromisoformat(load(path).header.created)


def run_monotonic(stage: Stage) -> Figures:
    """Server and clients whose monotonic clocks are a year apart, as on machines of their own."""
    ahead = [*unshared("time"), f"--monotonic={365 * DAY_S}"]
    require_time_namespace(ahead)
    server = stage.start(toy_server(f"--lease-s={LEASE_S}", "--step-ms=2"))
    bystander = stage.start(Bystander(server.endpoint))
    other = stage.start(DriverProcess(server.endpoint, key=2, prefix=ahead, period_s=0.1))
    bystander.wait_for(60)
    wait_until("its own clock moved on", lambda: other.step >= 20, timeout_s=10)
    other.finish()
    other.check(toy_reference)
    check_stamps(other.frames)
    stamps_ns = other.frames[-1].stamps_ns
    apart_s = (stamps_ns["client_recv"] - stamps_ns["srv_send"]) / 1e9
    require(apart_s > 364 * DAY_S, f"the clocks are only {apart_s:.0f} s apart")
    return {
        "clocks apart": f"{apart_s / DAY_S:.0f} days",
        "frames": f"{other.step} equal",
        **bystander.check_undisturbed(toy_reference),
    }


def require_time_namespace(command: Sequence[str]) -> None:
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"no time namespace: {done.stderr.strip()}")


FAULTS = (
    Fault(
        name="wall clock jumps",
        holds="leases, timeouts and stamps do not react",
        run=run_wall,
    ),
    Fault(
        name="monotonic clocks a year apart",
        holds="no clock of one process is compared with another's",
        run=run_monotonic,
    ),
)
