"""The signals that ask a process to end: Ctrl-C, a supervisor's SIGTERM, a terminal that closes."""

from __future__ import annotations

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heard_signals() -> tuple[signal.Signals, ...]:
    """Those that a server acts on: all but SIGHUP where it is ignored, as ``nohup`` has it.

    SIGINT counts although a shell has jobs in the background ignore it: `kill -INT` means it.
    """
    hung_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return STOP_SIGNALS if hung_up else STOP_SIGNALS[:2]
