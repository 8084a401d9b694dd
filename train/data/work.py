"""Many independent items over several processes, results as they come, and a journal of the done.

Knows nothing about what is done. A journal is one JSON line per item; a line cut off by a crash is
dropped when it is read, so its item is done again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from sim_stream.errors import InvalidInput, Unavailable

T = TypeVar("T")
R = TypeVar("R")


def run_all(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Results of all items in the order in which they finish; `workers` 0 runs them here."""
    if workers <= 0:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=signal.signal, initargs=_IGNORE_CTRL_C
    )
    try:
        waiting = iter(items)
        # A few items ahead of the workers: results may be large and must not pile up.
        running = {pool.submit(function, item) for item in islice(waiting, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running |= {pool.submit(function, item) for item in islice(waiting, 1)}
    except BrokenProcessPool as error:
        raise Unavailable("a worker process died (out of memory?); start the command again to go "
                          "on where it was, with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


_IGNORE_CTRL_C = (signal.SIGINT, signal.SIG_IGN)


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object per line, under its final name only when it is whole."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    os.replace(partial, path)


class Journal:
    """Lines of finished items in `path`, each with an `id`."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Raises InvalidInput where the journal there belongs to another job."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        lines = self.read(path)
        if lines and lines[0] != header:
            changed = [k for k in header if lines[0].get(k) != header[k]]
            was = ", ".join(f"{k}={lines[0].get(k)}" for k in changed)
            now = ", ".join(f"{k}={header[k]}" for k in changed)
            raise InvalidInput("out", f"{path} begun with {was}", f"{now}, or an empty folder")
        self.rows = {row["id"]: row for row in lines[1:]}
        # Written anew, so that a torn last line is gone before more are appended.
        write_lines(path, [header, *self.rows.values()])

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Header and rows, up to the first torn line; nothing where there is no file."""
        if not path.is_file():
            return []
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["id"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raises InvalidInput where the disk cannot take that much."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InvalidInput(
            "out", f"{folder} with {free / 1e9:.1f} GB free", f"{needed_bytes / 1e9:.1f} GB free"
        )
