"""Whether a server and the client package fit, by the versions that they tell of themselves.

Releases are `0.9.16`. A server that was built from source says `git describe`: `0.9.16-dirty`,
`0.9.16-279-gf45dd6943`, or only a hash where its clone has no tags. CARLA's own client warns of any
difference and goes on; different releases speak different protocols, so those are refused here.
"""

from __future__ import annotations

import re

from sim_stream.errors import Unavailable

# Numbers after the third are a release's later packages, of the same protocol.
_RELEASE = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?![0-9A-Fa-f])")


def release_of(version: str) -> tuple[int, int, int] | None:
    """(0, 9, 16); None for a hash, a branch, or whatever else names no release."""
    found = _RELEASE.match(version.strip())
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def compare(ours: str, theirs: str, address: str) -> str | None:
    """What to warn of, None where both are the same. Raises Unavailable for another release.

    `ours`: the client package's version, `theirs`: the server's.
    """
    if ours == theirs:
        return None
    package, server = release_of(ours), release_of(theirs)
    said = f"CARLA at {address} is {theirs}, the client package {ours}"
    if package is None or server is None:
        return f"{said}: whether they fit cannot be told from that"
    if package == server:
        return f"{said}: the same release, but not the same build"
    number = ".".join(map(str, server))
    raise Unavailable(
        f"{said}: pip install carla=={number} (for the Pythons that it was built for), or the "
        "package in the server's PythonAPI/carla/dist"
    )
