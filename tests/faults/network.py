"""A slow line, a lossy line, and no line at all between a client and its server.

The client lives in a network namespace of its own (``link``); the bystander is on the server's
side of the line. All of them encrypt (CURVE). What TCP does not mend by itself the client asks for
again.
"""

from __future__ import annotations

import re
import time
from functools import partial
from statistics import median

from sim_stream.errors import Unavailable
from tests.faults.clients import VICTIM, Bystander, DriverProcess, toy_reference
from tests.faults.clients_fail import LEASE_SLACK_S
from tests.faults.keys import Keys
from tests.faults.link import NEAR_IP
from tests.faults.namespaces import entered, unshared
from tests.faults.processes import Child, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.toy import toy_spec

SIZE = 256  # as the models' frames: some 140 packets each
REFERENCE = partial(toy_reference, spec=toy_spec(frame_shape=(SIZE, SIZE, 3)))
STEPS = 40
DELAY_MS, JITTER_MS = 50.0, 10.0
LOSS = 0.03
LEASE_S = 6.0
TIMEOUT_S = 10.0
# Of the client whose line is cut: it notices three times.
IMPATIENT_S = 1.0
PARTITION_S = 3.0
GROWTH_MIB = 48.0


class LinkProcess(Child):
    """``tests.faults.link``. Raises Unavailable on entering where this machine cannot do it."""

    def __init__(self, seed: int) -> None:
        environment = {"FAULTS_SEED": str(seed)}
        super().__init__("tests.faults.link", prefix=unshared("net"), environment=environment)
        self.how = ""
        self.forwarded = self.lost = 0
        self._far_pid = self._answers = 0

    def __enter__(self) -> LinkProcess:
        super().__enter__()
        wait_until("the link is there", lambda: bool(self.how) or not self.alive, timeout_s=10)
        if not self.how:
            self.end()
            raise Unavailable(f"no network namespaces: {' '.join(self.said[-1:])}")
        return self

    def hear(self, line: str) -> None:
        if ready := re.match(r"ready (\d+) (.*)", line):
            self._far_pid, self.how = int(ready[1]), ready[2]
        elif counts := re.match(r"counts (\d+) (\d+)", line):
            self.forwarded, self.lost = int(counts[1]), int(counts[2])
            self._answers += 1

    @property
    def near(self) -> list[str]:
        return entered(self.pid)

    @property
    def far(self) -> list[str]:
        return entered(self._far_pid)

    def do(self, command: str) -> None:
        """``impair ...``, ``cut``, ``heal`` or ``count``; done when this returns."""
        before = self._answers
        self.tell(command)
        wait_until(f"the link obeys {command}", lambda: self._answers > before, timeout_s=5)


class Line:
    """Server and bystander near, one client far; with keys, as all beyond one machine."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.link = stage.start(LinkProcess(stage.seed))
        self._keys = Keys(stage.folder, allowed=("near", "far"))
        options = (f"--bind=tcp://{NEAR_IP}:0", f"--size={SIZE}", f"--lease-s={LEASE_S}")
        self.server = stage.start(toy_server(*options, *self._keys.server, prefix=self.link.near))
        near = {"prefix": self.link.near, "period_s": 0.03, **self._keys.client("near")}
        self.bystander = stage.start(Bystander(self.server.endpoint, **near))
        self.bystander.wait_for(5)
        self._memory = self.server.memory(bound_mib=GROWTH_MIB)

    def client(self, **how: float) -> DriverProcess:
        far = {"prefix": self.link.far, **self._keys.client("far")}
        return self.stage.start(DriverProcess(self.server.endpoint, key=VICTIM, **far, **how))

    def figures(self) -> dict[str, str]:
        self.link.do("count")
        share = self.link.lost / max(1, self.link.forwarded + self.link.lost)
        return {
            "by": self.link.how,
            "packets": f"{self.link.forwarded} forwarded, {self.link.lost} lost ({share:.1%})",
            **self._memory.check(),
            **self.bystander.check_undisturbed(REFERENCE),
        }


def driven(line: Line) -> DriverProcess:
    """A client that makes all its steps over the line, and closes."""
    client = line.client(steps=STEPS, timeout_s=TIMEOUT_S)
    client.wait_for(STEPS, timeout_s=60)
    client.finish()
    client.check(REFERENCE)
    return client


def of_client(client: DriverProcess) -> dict[str, str]:
    latencies_ms = [frame.latency_ms for frame in client.frames[1:]]
    return {
        "frames": f"{client.step} equal",
        "latency": f"p50 {median(latencies_ms):.0f}, worst {max(latencies_ms):.0f} ms",
        "asked again": f"{client.losses} times",
    }


def run_delay(stage: Stage) -> Figures:
    line = Line(stage)
    line.link.do(f"impair {DELAY_MS} {JITTER_MS} 0")
    client = driven(line)
    best_ms = min(frame.latency_ms for frame in client.frames[1:])
    require(best_ms > 2 * (DELAY_MS - JITTER_MS), f"a step took {best_ms:.0f} ms: no delay")
    way = f"{DELAY_MS:g} +- {JITTER_MS:g} ms each way"
    return {"line": way, **of_client(client), **line.figures()}


def run_loss(stage: Stage) -> Figures:
    line = Line(stage)
    line.link.do(f"impair 5 0 {LOSS}")
    client = driven(line)
    figures = line.figures()
    require(line.link.lost > STEPS, f"only {line.link.lost} packets were lost")
    return {"line": f"5 ms and {LOSS:.0%} loss each way", **of_client(client), **figures}


def run_partition(stage: Stage) -> Figures:
    """Cut for longer than the client's timeout, then healed; then cut for good."""
    line = Line(stage)
    client = line.client(period_s=0.02, timeout_s=IMPATIENT_S)
    client.wait_for(10)
    cut_at = client.step
    line.link.do("cut")
    time.sleep(PARTITION_S)
    require(client.step <= cut_at + 1, f"{client.step - cut_at} frames came over a cut line")
    line.link.do("heal")
    start_s = time.monotonic()
    client.wait_for(client.step + 1)
    back_s = time.monotonic() - start_s
    client.wait_for(client.step + 20)
    require(client.losses > 0, "the client never noticed the partition")
    line.link.do("cut")
    # The server cannot know that the line is cut.
    expired = f"session {client.sid}: lease ran out"
    freed_s = wait_until(
        "the lease frees the session",
        lambda: line.server.has_said(expired),
        timeout_s=LEASE_S + LEASE_SLACK_S,
    )
    client.kill()
    client.check(REFERENCE)
    return {
        "cut": f"{PARTITION_S:g} s, then for good",
        **of_client(client),
        "back after": f"{back_s:.1f} s",
        "freed after": f"{freed_s:.1f} s (lease {LEASE_S:g})",
        **line.figures(),
    }


FAULTS = (
    Fault(
        name="network delay",
        holds="frames come late, whole and in order",
        run=run_delay,
    ),
    Fault(
        name="network loss",
        holds="TCP mends it: every frame once and in order",
        run=run_loss,
    ),
    Fault(
        name="network partition",
        holds="healed, the client goes on without a gap; for good, the lease frees its session",
        run=run_partition,
    ),
)
