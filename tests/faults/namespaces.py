"""Namespaces of Linux that vanish with their processes: nothing is created that has a name.

Knows no fault.
"""

from __future__ import annotations

import os
import shutil

from sim_stream.errors import Unavailable


def unshared(*kinds: str) -> list[str]:
    """A command that runs another one in new namespaces. Raises Unavailable."""
    if shutil.which("unshare") is None:
        raise Unavailable("unshare (util-linux) is not installed")
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, *(f"--{kind}" for kind in kinds)]


def entered(pid: int) -> list[str]:
    """A command that runs another one in the network of that process."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return ["nsenter", f"--target={pid}", *as_root, "--net"]
