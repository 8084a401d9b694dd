"""Ctrl-C and SIGTERM ask a run to stop; the loop finishes its step, saves it and ends.

Knows nothing about training. Schedulers send SIGTERM before they take a machine away; torchrun
hands either signal on to its processes.
"""

from __future__ import annotations

import signal
import threading
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_S = 1.0  # a terminal's Ctrl-C arrives twice under torchrun, at once


class StopRequest:
    """While it is entered a first signal sets `asked`; one more, a second later, ends at once.

    Signals reach the main thread only: in another one they stay what they are.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        return self.since is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if self.since is None:
            self.since = now
        elif now - self.since > TWICE_S:
            raise KeyboardInterrupt("at once, without a checkpoint")
