"""The other ways into a server: HTTP ports, the record folder, socket paths, key files.

Strangers may hold each; what is already going on goes on, and what cannot be is refused by name.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

from sim_stream.wire.client.blocking_client import StreamClient
from tests.faults.clients import Bystander, toy_reference
from tests.faults.keys import Keys
from tests.faults.processes import ROOT, Child, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.faults.taking import CONNECT_TIMEOUT_S, GROWTH_MIB, STALL_MS

HALF_REQUESTS = 400
HALF = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "
SCRAPE_TIMEOUT_S = 5.0
END_TIMEOUT_S = 20.0
MISTAKE = 2


class PageProcess(Child):
    """``sim-stream view`` of a running server; ``url`` once it is ready."""

    url = ""

    def hear(self, line: str) -> None:
        found = re.match(r"ready (http://\S+)", line)
        if found:
            self.url = found[1]


def run_half_requests(stage: Stage) -> Figures:
    server = stage.start(toy_server("--metrics=0"))
    bystander = stage.start(Bystander(server.endpoint))
    page = stage.start(
        PageProcess("sim_stream", "view", "--server", server.endpoint, "--port", "0")
    )
    wait_until("the page is ready", lambda: bool(page.url), timeout_s=END_TIMEOUT_S)
    (metrics_url,) = {found[1] for line in server.said if (found := METRICS.search(line))}
    bystander.wait_for(5)
    memory, figures = server.memory(bound_mib=GROWTH_MIB), {}
    for name, url, pid in (("metrics", metrics_url, server.pid), ("page", page.url, page.pid)):
        threads = thread_count(pid)
        with ExitStack() as strangers:
            for _ in range(HALF_REQUESTS):
                half_request(strangers, url)
            with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as reply:
                require(reply.status == 200, f"{name}: status {reply.status}")
            more, files = thread_count(pid) - threads, len(os.listdir(f"/proc/{pid}/fd"))
        require(more <= 1, f"{name}: {more} threads more")
        require(files < HALF_REQUESTS, f"{name}: {files} descriptors are taken")
        figures[name] = f"answered beside {HALF_REQUESTS} half requests, {files} descriptors"
    require(page.alive, "the page's server ended")
    page.signal(signal.SIGTERM)
    return figures | memory.check() | bystander.check_undisturbed(toy_reference, stall_ms=STALL_MS)


METRICS = re.compile(r"metrics at (http://\S+)")


def half_request(strangers: ExitStack, url: str) -> None:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    peer = socket.create_connection((parts.hostname, parts.port), CONNECT_TIMEOUT_S)
    with suppress(OSError):  # made room for others already
        strangers.enter_context(peer).sendall(HALF)


def thread_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def run_taken(stage: Stage) -> Figures:
    """A second server on the first one's folder and on its socket; both are refused."""
    folder, path = stage.folder / "recordings", stage.folder / "s.ipc"
    server = stage.start(toy_server("--record", folder, f"--bind=ipc://{path}"))
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    refused_serve("record", f"pid {server.pid}", "--record", folder, "--bind=tcp://127.0.0.1:0")
    refused_serve("bind", "a server listens there", f"--bind=ipc://{path}")
    notes = stage.folder / "notes.txt"
    notes.write_text("mine")
    refused_serve("bind", "nobody's socket", f"--bind=ipc://{notes}")
    require(notes.read_text() == "mine", "the file at the path is gone")
    figures = bystander.check_undisturbed(toy_reference, stall_ms=STALL_MS)
    server.kill()
    require(path.is_socket(), "the killed server's socket is not there")
    again = stage.start(toy_server("--record", folder, f"--bind=ipc://{path}"))
    require(again.endpoint == server.endpoint, f"it listens at {again.endpoint}")
    return {
        "a second server": "refused by the folder's lock, and at the path",
        "a file at the path": "untouched",
        "after kill -9": "the next one has both",
        **figures,
    }


def refused_serve(what: str, says: str, *options: str | Path) -> None:
    """``sim-stream serve`` ends with one line and status 2. Raises Violated."""
    command = [sys.executable, "-m", "sim_stream", "serve", *map(str, options)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False
    )
    lines = done.stderr.splitlines()
    require(
        done.returncode == MISTAKE and len(lines) == 1 and says in lines[0],
        f"{what}: status {done.returncode}, {done.stderr!r}; expected {MISTAKE} and {says!r}",
    )


def run_key_files(stage: Stage) -> Figures:
    """A FIFO, links and folders between the keys, before the start and while the server runs."""
    keys = Keys(stage.folder, allowed=("bystander", "late"))
    allowed = keys.allowed
    late = (allowed / "late.pub").rename(stage.folder / "late.pub")
    place_odd_files(allowed, "before")
    server = stage.start(toy_server(*keys.server))
    bystander = stage.start(Bystander(server.endpoint, **keys.client("bystander")))
    bystander.wait_for(5)
    place_odd_files(allowed, "after")
    late.rename(allowed / "late.pub")
    options = keys.client("late")
    with StreamClient(
        server.endpoint,
        timeout_s=CONNECT_TIMEOUT_S,
        key=options["secret_key"],
        server_key=options["server_key"],
    ) as client:
        require(client.info.spec.model_id == "toy", "the late client was not let in")
    for name in ("before-fifo.pub", "after-fifo.pub", "after-folder.pub"):
        require(server.has_said(name), f"the log does not name {name}")
    bystander.wait_for(bystander.step + 20)
    figures = bystander.check_undisturbed(toy_reference, stall_ms=STALL_MS)
    server.signal(signal.SIGTERM)
    ended_s = wait_until("SIGTERM ends it", lambda: not server.alive, timeout_s=END_TIMEOUT_S)
    return {
        "odd files": "a FIFO, a folder, a dangling link, a huge one: named, and allow nobody",
        "a key that came later": "let in",
        "SIGTERM": f"heard in {ended_s:.1f} s",
        **figures,
    }


def place_odd_files(folder: Path, name: str) -> None:
    os.mkfifo(folder / f"{name}-fifo.pub")
    (folder / f"{name}-folder.pub").mkdir()
    (folder / f"{name}-link.pub").symlink_to(folder / "nowhere")
    with (folder / f"{name}-huge.pub").open("wb") as file:
        file.truncate(2**33)


FAULTS = (
    Fault(
        name="half-sent HTTP requests",
        holds="metrics and page answer others; no thread and few descriptors for each",
        run=run_half_requests,
    ),
    Fault(
        name="second server on folder and path",
        holds="refused by name with status 2; the first goes on; both are free after kill -9",
        run=run_taken,
    ),
    Fault(
        name="FIFO among the keys",
        holds="named and no key; the server starts, runs and ends",
        run=run_key_files,
    ),
)
