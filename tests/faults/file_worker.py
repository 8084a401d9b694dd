"""The process that reads mutated files: `files` starts it and hears a JSON line for each step.

A case is made from the seed, its kind and its number alone. Before it is read its number is said,
so that a death has a name. The files of a case that fails are kept, with a word on what failed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from sim_stream.errors import SimStreamError
from tests.faults.file_kinds import Kind, Read, kind_named
from tests.faults.mutate import Mutator, header_of_safetensors

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
BOUND_MIB = 1024
HEAVY_STATUS = 3
# Address space is asked for far ahead of use; beyond this an allocation fails.
ADDRESSES = 3 << 30


class TooLong(BaseException):
    """A case's time is over."""


def say(**line: object) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def peak_mib() -> float:
    """Since the last `clear_refs`. What `getrusage` says begins with the parent's size."""
    return int(STATUS.read_text().partition("VmHWM:")[2].split()[0]) / 1024


def mutated(data: bytes, rule: str, mutator: Mutator) -> bytes:
    made = {
        "bytes": mutator.of_bytes,
        "json": mutator.of_json,
        "json lines": mutator.of_json_lines,
        "words": mutator.of_words,
        "safetensors": partial(header_or_bytes, mutator),
    }
    return made[rule](data)


def header_or_bytes(mutator: Mutator, data: bytes) -> bytes:
    return (
        header_of_safetensors(data, mutator.of_json) if mutator.heads() else mutator.of_bytes(data)
    )


class Cases:
    """All cases of one kind that are this process's share."""

    def __init__(self, kind: Kind, spec: dict[str, Any]) -> None:
        self.kind, self._seed, self._keep = kind, spec["seed"], Path(spec["keep"])
        self.folder = Path(spec["folder"]) / kind.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        kind.prepare(self.folder)
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self._good = {path: path.read_bytes() for path in files}
        self._rules = {path: rule for path in files if (rule := self._rule(path))}
        self._read: Read = kind.reader()
        for path in self._rules:
            self._read(self.folder, path)  # what was not changed is read
        self.counts = {"read": 0, "refused": 0}
        self.slowest_s, self._case_s = 0.0, spec["case_s"]
        CLEAR_REFS.write_text("5")
        self._before_mib = peak_mib()

    def _rule(self, path: Path) -> str | None:
        return next(
            (rule for form, rule in self.kind.rules.items() if fnmatch(path.name, form)), None
        )

    @property
    def grown_mib(self) -> float:
        return peak_mib() - self._before_mib

    def run(self, number: int) -> bool:
        """Whether the process is fit for another one."""
        chance = random.Random(f"{self.kind.name} {self._seed} {number}")
        changed = chance.choice([*self._rules])
        mutator = Mutator(chance, [*self._good.values()])
        changed.write_bytes(mutated(self._good[changed], self._rules[changed], mutator))
        sealed = self.kind.seal is not None and chance.random() < 0.7
        if self.kind.seal is not None and sealed:
            self.kind.seal(self.folder, changed)
        say(kind=self.kind.name, case=number)
        start_s = time.monotonic()
        why = self._outcome(changed)
        self.slowest_s = max(self.slowest_s, time.monotonic() - start_s)
        heavy = self.grown_mib > BOUND_MIB
        if why or heavy:
            self._fail(number, changed, why or f"{self.grown_mib:.0f} MiB of memory")
        for path in self._good if sealed else [changed]:
            path.write_bytes(self._good[path])
        return not heavy

    def _outcome(self, changed: Path) -> str:
        """Empty: it was read, or refused as it should be."""
        signal.setitimer(signal.ITIMER_REAL, self._case_s)
        try:
            self._read(self.folder, changed)
            self.counts["read"] += 1
        except SimStreamError as error:
            self.counts["refused"] += 1
            if not str(error).isprintable():
                return f"the message is no line of text: {str(error)[:200]!r}"
            if _ran_out(error):
                return f"memory ran out before it was refused: {str(error)[:200]}"
        except TooLong:
            return f"longer than {self._case_s:g} s"
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            return f"{type(error).__name__} at {where}: {str(error)[:200]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return ""

    def _fail(self, number: int, changed: Path, why: str) -> None:
        kept = self._keep / f"{self.kind.name}-{self._seed}-{number}".replace(" ", "-")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept)
        (kept / "WHY").write_text(f"{changed.name} was changed\n{why}\n")
        say(failure=f"{self.kind.name}, case {number}, {changed.name}: {why}; kept in {kept}")

    def say_counts(self) -> None:
        say(kind=self.kind.name, **self.counts, slowest_s=self.slowest_s, peak_mib=self.grown_mib)


def _ran_out(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _end_with_parent() -> None:
    while os.read(0, 1):  # no lock of the interpreter is held meanwhile, as it would be by `stdin`
        pass
    os._exit(1)


def main() -> int:
    spec = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGALRM, _too_long)
    logging.disable()
    first = spec["first"]
    for name in spec["names"]:
        say(kind=name, case=-1)
        cases = Cases(kind_named(name), spec)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ADDRESSES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        for number in range(first, spec["cases"], spec["step"]):
            if not cases.run(number):
                cases.say_counts()
                return HEAVY_STATUS  # as much memory again would not show
        cases.say_counts()
        first = spec["share"]
    return 0


if __name__ == "__main__":
    sys.exit(main())
