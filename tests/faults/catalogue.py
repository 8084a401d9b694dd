"""All faults, in the order in which they run."""

from __future__ import annotations

from tests.faults import (
    clients_fail,
    clients_leave,
    clocks,
    disk,
    doors,
    files,
    fuzz,
    hostile,
    impostors,
    network,
    planted,
    readers,
    restart,
    sessions,
    strangers,
    taking,
)

FAULTS = (
    *clients_fail.FAULTS,
    *clients_leave.FAULTS,
    *restart.FAULTS,
    *network.FAULTS,
    *readers.FAULTS,
    *sessions.FAULTS,
    *hostile.FAULTS,
    *strangers.FAULTS,
    *taking.FAULTS,
    *doors.FAULTS,
    *impostors.FAULTS,
    *planted.FAULTS,
    *fuzz.FAULTS,
    *files.FAULTS,
    *disk.FAULTS,
    *clocks.FAULTS,
)
