"""A recorded session on its way back: reset, then one recorded step after the other.

The steps are begun and advanced beside other sessions' (``worker``). Only the last few, whose
replies a client may never have got, are rendered; they must show what the recording shows.

Belongs to the engine thread. Knows no clients and no files.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from sim_stream.wire import engine
from sim_stream.wire.messages import ErrorCode, Step
from sim_stream.wire.observe import Past
from sim_stream.wire.server.faults import Refusal
from sim_stream.wire.server.jobs import Job, Remembered, checked, describe


@dataclass(frozen=True)
class _Unrendered:
    request: Step
    sha256: str
    pending: engine.Pending
    end_ns: int


class Rebuild:
    """``keep``: how many of the last steps are rendered."""

    def __init__(self, session: engine.Session, first: engine.Frame, past: Past, keep: int) -> None:
        require_equal(first, past.sha256[0], 0)
        self.past = past
        self._session = session
        self._left = deque(zip(past.steps, past.sha256[1:], strict=True))
        self._last: deque[_Unrendered] = deque(maxlen=keep)

    @property
    def committed_step(self) -> int:
        """As the client counts."""
        return self.past.steps[-1].step if self.past.steps else 0

    def begin(self) -> engine.Prediction | None:
        """The next step; None when all were taken."""
        if not self._left:
            return None
        action = self._left[0][0].action
        return self._session.begin(action.to_action() if action else None)

    def take(self, prediction: engine.Prediction) -> None:
        request, sha256 = self._left.popleft()
        pending = prediction.result()
        self._last.append(_Unrendered(request, sha256, pending, time.monotonic_ns()))
        self._session.settle()

    def render(self, job: Job) -> list[Remembered]:
        """The replies to the last steps. Raises Refusal where a frame is not the recorded one."""
        remembered = []
        for one in self._last:
            start_ns = time.monotonic_ns()
            frame = checked(one.pending.render())
            require_equal(frame, one.sha256, one.request.step)
            stamps_ns = {
                "engine_start": job.t_recv_ns,
                "engine_end": one.end_ns,
                "decode_start": start_ns,
                "decode_end": time.monotonic_ns(),
            }
            step = Job(sid=job.sid, request=one.request, t_recv_ns=job.t_recv_ns)
            info = describe(frame, step, one.request.step, self.past.start.seed, stamps_ns)
            remembered.append(Remembered(one.request, info, frame.image))
        return remembered


def require_equal(frame: engine.Frame, sha256: str, step: int) -> None:
    """Raises Refusal: another machine, or another way to compute, gave another frame."""
    if hashlib.sha256(np.ascontiguousarray(frame.image).data).hexdigest() != sha256:
        raise Refusal(
            ErrorCode.ENGINE_FAILED,
            f"resume: step {step} does not come out as it was recorded; the model must run on the "
            "same kind of machine, with the same options",
        )
