"""Thousands of mutated files of every kind, read as the product reads them.

    python -m tests.faults.files [--kind NAME] [--cases N] [--seed N]

Each is read or refused in one line. Anything else that is raised, a signal, more than CASE_S
seconds or more than a GiB is a fault; its files are kept as a reproducer. Worker processes
(`file_worker`) do the reading, so that one that dies costs one case.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.file_kinds import KINDS
from tests.faults.file_worker import HEAVY_STATUS
from tests.faults.processes import ROOT, require
from tests.faults.registry import Fault, Figures, Stage

CASES = 300  # of each kind; `--cases 10000` runs them all
WORKERS = 2
CASE_S, SILENT_S = 20.0, 90.0
MAX_DEATHS = 20
HEAVY = "too much memory"
MODULE = "tests.faults.file_worker"
KEEP = Path(tempfile.gettempdir()) / "sim-stream-reproducers"
NAMED = 3


@dataclass
class Tally:
    """What became of the cases, by kind; `failures` with the case's files where they are kept."""

    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_mib: float = 0.0

    def hear(self, line: dict[str, object]) -> None:
        kind = str(line["kind"])
        self.read[kind] += int(str(line["read"]))
        self.refused[kind] += int(str(line["refused"]))
        self.slowest_s = max(self.slowest_s, float(str(line["slowest_s"])))
        self.peak_mib = max(self.peak_mib, float(str(line["peak_mib"])))


class Worker:
    """One process after another, until its share of the cases is done."""

    def __init__(
        self, names: Sequence[str], seed: int, cases: int, share: int, folder: Path, keep: Path
    ) -> None:
        self._names, self._seed, self._cases = names, seed, cases
        self._share, self._folder, self._keep = share, folder, keep
        self._at = ("", share)
        self._deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.tally = Tally()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self._deaths = MAX_DEATHS
        if self._process is not None:
            self._process.kill()
        self.thread.join()

    def _run(self) -> None:
        """A process that died is followed by one that begins behind the case it died of."""
        todo = list(self._names)
        first = self._share
        while todo and self._deaths < MAX_DEATHS:
            ended = self._one(todo, first)
            if ended is None:
                return
            self._deaths += 1
            kind, number = self._at
            if number < 0 or not kind:
                self.tally.failures.append(f"{kind}: no case was begun: {ended}")
                return
            if ended != HEAVY:  # which was said, and the files kept
                kept = self._keep_case(kind, number)
                self.tally.failures.append(f"{kind}, case {number}: {ended}; kept in {kept}")
            todo, first = todo[todo.index(kind) :], number + WORKERS

    def _one(self, names: Sequence[str], first: int) -> str | None:
        """Why it ended too early, or None."""
        self._at = ("", first)
        said = self._folder / "stderr"
        spec = {
            **{"names": names, "seed": self._seed, "cases": self._cases, "first": first},
            **{"share": self._share, "step": WORKERS, "case_s": CASE_S},
            **{"folder": str(self._folder), "keep": str(self._keep)},
        }
        command = [sys.executable, "-m", MODULE, json.dumps(spec)]
        with said.open("wb") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        with self._process as process:
            silent = self._listen(process)
            if silent:
                process.kill()
        if silent:
            return f"nothing happened for {SILENT_S:g} s"
        if process.returncode == 0:
            return None
        if process.returncode == HEAVY_STATUS:
            return HEAVY
        last = said.read_text(errors="replace").strip().splitlines()[-1:]
        return f"the process ended with {process.returncode} {' '.join(last)}"

    def _listen(self, process: subprocess.Popen[bytes]) -> bool:
        """Until it ends, or falls silent, which is told."""
        assert process.stdout is not None
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(SILENT_S):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    return False
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))
        return True

    def _hear(self, line: dict[str, object]) -> None:
        if "case" in line:
            self._at = (str(line["kind"]), int(str(line["case"])))
        elif "failure" in line:
            self.tally.failures.append(str(line["failure"]))
        else:
            self.tally.hear(line)

    def _keep_case(self, kind: str, number: int) -> Path:
        """The files under attack are still those of the case that it died of."""
        kept = self._keep / f"{kind}-{self._seed}-{number}".replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self._folder / kind, kept)
        return kept


def fuzz(names: Sequence[str], seed: int, cases: int, stage: Stage) -> Tally:
    """All cases of these kinds, on two processes."""
    workers = []
    for share in range(WORKERS):
        folder = stage.folder / str(share)
        folder.mkdir()
        workers.append(Worker(names, seed, cases, share, folder, KEEP))
        stage.callback(workers[-1].end)
    whole = Tally()
    for worker in workers:
        worker.thread.join()
        tally = worker.tally
        whole.read += tally.read
        whole.refused += tally.refused
        whole.failures += tally.failures
        whole.slowest_s = max(whole.slowest_s, tally.slowest_s)
        whole.peak_mib = max(whole.peak_mib, tally.peak_mib)
    return whole


def run(stage: Stage, *, names: Sequence[str] = (), cases: int = CASES) -> Figures:
    names = names or [kind.name for kind in KINDS]
    tally = fuzz(names, stage.seed, stage.cases or cases, stage)
    some = "; ".join(tally.failures[:NAMED])
    require(not tally.failures, f"{len(tally.failures)} cases failed: {some}")
    missing = [name for name in names if not tally.refused[name]]
    require(not missing, f"no case of {missing} was refused: nothing was tested")
    return {
        "seed": str(stage.seed),
        **{n: f"{tally.read[n]} read, {tally.refused[n]} refused" for n in names},
        "slowest": f"{tally.slowest_s:.1f} s",
        "memory": f"peak +{tally.peak_mib:.0f} MiB (bound 1024)",
    }


FAULTS = (
    Fault(
        name="mutated files of every kind",
        holds="each is read, or refused in one line; memory and time are bounded",
        run=run,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.files")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kind", action="append", choices=names, help="(default: all)")
    parser.add_argument("--cases", type=int, default=CASES, help="of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    with Stage(args.seed) as stage:
        tally = fuzz(args.kind or names, args.seed, args.cases, stage)
    for name in args.kind or names:
        print(f"{name}: {tally.read[name]} read, {tally.refused[name]} refused")
    print(f"slowest {tally.slowest_s:.1f} s, memory +{tally.peak_mib:.0f} MiB")
    print("\n".join(tally.failures) or "nothing failed")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
