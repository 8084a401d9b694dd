"""The recordings that a session goes through: a fork's parents, what it was resumed from.

Each is read once, up to where the next one began. However many there are, they take a loop and no
stack; one that comes back to itself is refused. Knows no pixels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sim_stream.errors import InvalidInput
from sim_stream.recording.bounds import Budget
from sim_stream.recording.formats import read_lines
from sim_stream.recording.lines import AnyLine, Forked, Header
from sim_stream.recording.names import beside


@dataclass(frozen=True, kw_only=True)
class Link:
    """One of them: its lines, up to where the next began. ``fork``: what it went on from."""

    path: Path
    header: Header
    lines: list[AnyLine]
    cut: bool
    fork: Forked | None


def chain(path: Path) -> list[Link]:
    """All of them, from where the session began. Raises InvalidInput, Unavailable."""
    links = [_read(path, None, budget := Budget())]
    seen = {os.path.realpath(path)}
    while (fork := links[-1].fork) is not None:
        parent = beside(links[-1].path, fork.parent)
        if (real := os.path.realpath(parent)) in seen:
            raise InvalidInput(
                "recording", f"{parent} (a fork of itself)", "one that began with an open"
            )
        seen.add(real)
        links.append(_read(parent, fork.parent_lines, budget))
    return links[::-1]


def _read(path: Path, first: int | None, budget: Budget) -> Link:
    """Raises InvalidInput."""
    read = read_lines(path, first=first, budget=budget)
    forks = [index for index, line in enumerate(read.lines) if isinstance(line, Forked)]
    if forks not in ([], [1]):
        lines = ", ".join(str(index + 1) for index in forks[:8])
        raise InvalidInput("recording", f"{path} (a fork on line {lines})", "on line 2 alone")
    fork = read.lines[1] if forks else None
    assert fork is None or isinstance(fork, Forked)
    return Link(path=path, header=read.header, lines=read.lines, cut=read.cut, fork=fork)
