"""All faults, in the order in which they run."""

from __future__ import annotations

from tests.faults import (
    clients_fail,
    clocks,
    disk,
    files,
    fuzz,
    hostile,
    network,
    readers,
    restart,
    sessions,
    strangers,
)

FAULTS = (
    *clients_fail.FAULTS,
    *restart.FAULTS,
    *network.FAULTS,
    *readers.FAULTS,
    *sessions.FAULTS,
    *hostile.FAULTS,
    *strangers.FAULTS,
    *fuzz.FAULTS,
    *files.FAULTS,
    *disk.FAULTS,
    *clocks.FAULTS,
)
