"""Many independent items over several processes, results as they come, and a journal of the done.

Knows nothing about what is done. A journal is one JSON line per item; a line cut off by a crash is
dropped when it is read, so its item is done again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from sim_stream.errors import InvalidInput, SimStreamError, Unavailable
from sim_stream.outputs import said_plainly, write_whole
from sim_stream.plain_json import to_json

T = TypeVar("T")
R = TypeVar("R")


def run_all(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    *,
    died: Callable[[T, str], R] | None = None,
) -> Iterator[R]:
    """Results of all items in the order in which they finish; `workers` 0 runs them here.

    `died` gives the result of an item whose worker was killed (the text says how), and another
    worker goes on; without it Unavailable names the item, and what was finished stays.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    waiting = iter(items)
    busy: dict[Any, tuple[Worker, T]] = {}

    def begin_next(worker: Worker | None) -> None:
        for item in islice(waiting, 1):
            worker = worker or Worker(function)
            busy[worker.pipe] = (worker, item)
            worker.pipe.send(item)
            return
        if worker is not None:
            worker.stop()

    try:
        for _ in range(workers):
            begin_next(None)
        while busy:
            for pipe in wait(list(busy)):
                worker, item = busy.pop(pipe)
                try:
                    result = worker.result()
                except WorkerDied as death:
                    if died is None:
                        raise Unavailable(
                            f"a worker process was {death} at {named(item)}; the same command "
                            "goes on where it was, with fewer --workers if memory was short"
                        ) from death
                    begin_next(None)
                    result = died(item, str(death))
                else:
                    begin_next(worker)  # it works while the result is used
                yield result
    finally:
        for worker, _ in busy.values():
            worker.stop()


def named(item: object) -> str:
    return str(getattr(item, "media", item))


class WorkerDied(Exception):
    """How a process ended in the middle of an item."""


class Worker:
    """A process that applies a function to one item at a time, so a death is one item's."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """Raises what the function raised, or WorkerDied."""
        try:
            found, error = self.pipe.recv()
        except (EOFError, OSError) as lost:
            self._process.join()
            raise WorkerDied(_how(self._process.exitcode)) from lost
        if error is not None:
            raise error
        return found

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode}"


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = (function(item), None)
        except Exception as error:  # the parent raises it
            if not isinstance(error, SimStreamError):
                error.add_note("".join(traceback.format_exception(error)))
            answer = (None, _carried(error, item))
        pipe.send(answer)


def _carried(error: Exception, item: object) -> Exception:
    """The error as it crosses to the parent; one that pickle cannot carry goes as its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickle and foreign constructors raise
        return Unavailable(f"{named(item)}: {type(error).__name__}: {error}")
    return error


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object per line, under its final name only when it is whole."""
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Raises Unavailable where the disk does not take it; the file that was there stays then."""
    with said_plainly(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


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
        """Raises Unavailable where the disk does not take it."""
        self.rows[row["id"]] = row
        with said_plainly(self.path), self.path.open("a") as file:
            file.write(to_json(row) + "\n")


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raises InvalidInput where the disk cannot take that much."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InvalidInput(
            "out", f"{folder} with {free / 1e9:.1f} GB free", f"{needed_bytes / 1e9:.1f} GB free"
        )
