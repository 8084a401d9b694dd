"""Writes constraints.txt from the environment that runs this: exact pins of what we depend on.

    .venv/bin/python tools/lock.py > constraints.txt

Follows the requirements of sim-stream with its extras ``test``, ``dev`` and ``bench``; other
packages that lie in the environment are left out. torch is pinned without its build suffix (+cpu,
+cu130).
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
HEADER = """\
# Exact versions of what sim-stream[test,dev,bench] needs; written by tools/lock.py. torch has no
# build suffix here: tools/install_torch.py chooses the CPU or the CUDA build.
"""


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Name -> version of everything that is required, directly or not."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(requirement, frozenset(requirement.extras)) for requirement in roots]
    while todo:
        requirement, extras = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen or not applies(requirement, frozenset({""})):
            continue
        seen.add((name, extras))
        pins[name] = importlib.metadata.version(name).split("+")[0]
        for text in importlib.metadata.requires(name) or []:
            child = Requirement(text)
            if applies(child, extras | {""}):
                child.marker = None
                todo.append((child, frozenset(child.extras)))
    return pins


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def main() -> None:
    project = tomllib.loads(PROJECT.read_text())
    texts = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in ("test", "dev", "bench"):
        texts += project["project"]["optional-dependencies"][extra]
    pins = closure([Requirement(text) for text in texts])
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(pins.items())))


if __name__ == "__main__":
    main()
