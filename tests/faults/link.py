"""A network link between two network namespaces, which can be slow, lossy or cut.

    unshare --net python -m tests.faults.link

It is a process in the near namespace, where servers run; the far one, where a client runs, belongs
to a child of it. Both vanish with it. Lines on stdin: ``impair DELAY_MS JITTER_MS LOSS``, ``cut``,
``heal``, ``count``. Lines on stdout: ``ready HOW FAR_PID``, ``counts FORWARDED LOST``.

Where the kernel has netem, a veth pair with it is the link. Elsewhere two TUN devices are, and this
process carries their IP packets across, late or not at all: the kernels' own TCP on either side
meets delay and loss as on a real line, and sends again.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from typing import Protocol

NEAR, FAR = "near0", "far0"
NEAR_IP, FAR_IP = "10.7.0.1", "10.7.0.2"
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET_BYTES = 2048
# What a router would hold; beyond that the line is full and packets are lost.
PACKETS_QUEUED = 2000
IDLE_S = 0.2


class Link(Protocol):
    """``loss``: the share of packets that vanish, each way."""

    how: str

    def impair(self, delay_ms: float, jitter_ms: float, loss: float) -> None: ...
    def cut(self) -> None: ...
    def heal(self) -> None: ...
    def counts(self) -> tuple[int, int]: ...


def run(*command: str) -> str:
    """What it prints. Raises CalledProcessError."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


class Netem:
    """A veth pair; the kernel's network emulator at both ends."""

    how = "netem"

    def __init__(self, far_pid: int) -> None:
        self._far = ("nsenter", f"--target={far_pid}", "--net")
        run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR)
        run("ip", "link", "set", FAR, "netns", str(far_pid))

    def impair(self, delay_ms: float, jitter_ms: float, loss: float) -> None:
        line = ("delay", f"{delay_ms}ms", f"{jitter_ms}ms", "loss", f"{loss * 100}%")
        run("tc", "qdisc", "replace", "dev", NEAR, "root", "netem", *line)
        run(*self._far, "tc", "qdisc", "replace", "dev", FAR, "root", "netem", *line)

    def cut(self) -> None:
        self.impair(0, 0, 1)

    def heal(self) -> None:
        self.impair(0, 0, 0)

    def counts(self) -> tuple[int, int]:
        """Forwarded and lost, as ``tc -s`` tells."""
        shown = run("tc", "-s", "qdisc", "show", "dev", NEAR)
        shown += run(*self._far, "tc", "-s", "qdisc", "show", "dev", FAR)
        words = shown.replace(",", " ").split()
        sent = sum(int(words[i - 1]) for i, word in enumerate(words) if word == "pkt")
        lost = sum(int(words[i + 1]) for i, word in enumerate(words) if word == "(dropped")
        return sent, lost


class Relay:
    """Two TUN devices and a queue of packets between them."""

    how = "packets relayed between TUN devices"

    def __init__(self, far_pid: int, seed: int) -> None:
        self._random = random.Random(seed)
        near, far = _tun(NEAR), _tun(FAR)
        run("ip", "link", "set", FAR, "netns", str(far_pid))
        self._other = {near: far, far: near}
        self._delay_s = self._jitter_s = self._loss = 0.0
        self._leaves_s = {near: 0.0, far: 0.0}  # the latest of each way: jitter must not reorder
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._number = self._forwarded = self._lost = 0

    @property
    def devices(self) -> list[int]:
        return [*self._other]

    def impair(self, delay_ms: float, jitter_ms: float, loss: float) -> None:
        self._delay_s, self._jitter_s, self._loss = delay_ms / 1e3, jitter_ms / 1e3, loss

    def cut(self) -> None:
        self.impair(0, 0, 1)
        self._lost += len(self._queue)
        self._queue.clear()

    def heal(self) -> None:
        self.impair(0, 0, 0)

    def counts(self) -> tuple[int, int]:
        return self._forwarded, self._lost

    def take(self, device: int) -> None:
        """A packet from one end: queued for the other, or lost."""
        packet = os.read(device, PACKET_BYTES)
        if self._random.random() < self._loss or len(self._queue) >= PACKETS_QUEUED:
            self._lost += 1
            return
        other = self._other[device]
        jitter_s = self._random.uniform(-self._jitter_s, self._jitter_s)
        leaves_s = max(time.monotonic() + self._delay_s + jitter_s, self._leaves_s[other])
        self._leaves_s[other] = leaves_s
        self._number += 1
        heapq.heappush(self._queue, (leaves_s, self._number, other, packet))

    def forward(self) -> float:
        """What is due leaves; seconds until more is."""
        while self._queue and self._queue[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(self._queue)
            try:
                os.write(device, packet)
                self._forwarded += 1
            except OSError:  # the device's own queue is full
                self._lost += 1
        return max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else IDLE_S


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def make_link(far_pid: int, seed: int) -> Link:
    """netem where the kernel has it. Raises OSError and CalledProcessError where nothing works."""
    try:
        run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms")
        run("tc", "qdisc", "del", "dev", "lo", "root")
    except (OSError, subprocess.CalledProcessError):
        return Relay(far_pid, seed)
    return Netem(far_pid)


def set_up(far_pid: int) -> None:
    """Addresses of both ends."""
    far = ("nsenter", f"--target={far_pid}", "--net")
    run("ip", "link", "set", "lo", "up")
    for inside, device, ours, theirs in (((), NEAR, NEAR_IP, FAR_IP), (far, FAR, FAR_IP, NEAR_IP)):
        run(*inside, "ip", "addr", "add", ours, "peer", theirs, "dev", device)
        run(*inside, "ip", "link", "set", device, "up")


def obey(link: Link, line: str) -> None:
    match line.split():
        case ["impair", delay_ms, jitter_ms, loss]:
            link.impair(float(delay_ms), float(jitter_ms), float(loss))
        case ["cut"]:
            link.cut()
        case ["heal"]:
            link.heal()
        case ["count"]:
            pass
        case _:
            raise ValueError(line)
    print("counts", *link.counts(), flush=True)


def serve(link: Link) -> None:
    """Until stdin closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        for device in link.devices if isinstance(link, Relay) else []:
            selector.register(device, selectors.EVENT_READ)
        wait_s = IDLE_S
        while True:
            for key, _ in selector.select(wait_s):
                if key.fd != sys.stdin.fileno():
                    assert isinstance(link, Relay)
                    link.take(key.fd)
                elif lines := os.read(key.fd, 4096).decode():
                    for line in lines.splitlines():
                        obey(link, line)
                else:
                    return
            if isinstance(link, Relay):
                wait_s = link.forward()


def main() -> None:
    # The far namespace lives as long as a process in it, which ends when our end of the pipe does.
    far = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert far.stdout is not None
    far.stdout.readline()
    link = make_link(far.pid, int(os.environ.get("FAULTS_SEED", "1")))
    set_up(far.pid)
    print("ready", far.pid, link.how, flush=True)
    serve(link)


if __name__ == "__main__":
    main()
