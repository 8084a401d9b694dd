"""A recorded session on its way back: the token that names it, and its steps one after the other.

The steps are begun and advanced beside other sessions' (``worker``). Only the last few, whose
replies a client may never have got, are rendered; they must show what the recording shows. Rebuilds
belong to the engine thread.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim_stream.spec import StreamSpec
from sim_stream.stream_model import Chunk, Pending, Prediction, WorldSession
from sim_stream.wire.inputs import check_step
from sim_stream.wire.messages import ErrorCode
from sim_stream.wire.observe import Past, PastStep
from sim_stream.wire.server.jobs import Job, Refusal, Remembered, describe


def sign(key: bytes, sid: str, owner: str) -> str:
    """The token of a session; ``owner``: the key of the client that opened it, "" without."""
    signature = hmac.new(key, f"{sid} {owner}".encode(), hashlib.sha256).hexdigest()
    return f"{sid}.{signature[:32]}"


def signed_sid(key: bytes, token: str, owner: str) -> str:
    """The session of its owner's token. Raises Refusal."""
    sid, _, _ = token.partition(".")
    # Compared as bytes: a text beyond ASCII is no reason to fail.
    if not hmac.compare_digest(sign(key, sid, owner).encode(), token.encode()):
        raise Refusal(ErrorCode.NO_SESSION, "resume_token: not one of this server's")
    return sid


@dataclass
class Live:
    """A session that runs. ``committed_step`` is the client's count of what it took."""

    session: WorldSession
    seed: int
    realtime: bool
    prompt_psnr_db: float | None
    committed_step: int = 0

    def reseed(self, seed: int) -> None:
        self.session.reseed(seed)
        self.seed = seed


@dataclass(frozen=True)
class _Unrendered:
    step: PastStep
    sha256: list[str]
    pending: Pending
    seed: int
    end_ns: int


class Rebuild:
    """``keep``: how many of the last steps are rendered. ``checked`` holds a chunk to the contract.
    Steps are held to ``spec``, which may not be the one that they were recorded with."""

    def __init__(
        self,
        live: Live,
        first: Chunk | None,
        past: Past,
        keep: int,
        spec: StreamSpec,
        checked: Callable[[Chunk], Chunk],
    ) -> None:
        require_equal(first, past.sha256[0], 0)
        self.past = past
        self._live, self._spec, self._checked = live, spec, checked
        self._taken = self._committed_step = 0
        self._step: PastStep | None = None  # under way
        self._last: deque[_Unrendered] = deque(maxlen=keep)

    @property
    def committed_step(self) -> int:
        """As the client counts."""
        return self._committed_step

    @property
    def seed(self) -> int:
        """Of what comes next."""
        return self._live.seed

    def begin(self) -> Prediction | None:
        """The next step; None when all were taken."""
        if self._taken in self.past.forks:
            self._live.reseed(self.past.forks[self._taken])
        self._step = next(self.past.steps, None)
        if self._step is None:
            return None
        check_step(self._spec, self._step.inputs)
        return self._live.session.begin(self._step.inputs)

    def take(self, prediction: Prediction) -> None:
        assert self._step is not None, "it was begun"
        pending, now_ns = prediction.result(), time.monotonic_ns()
        self._taken += 1
        sha256 = self.past.sha256[self._taken]
        self._last.append(_Unrendered(self._step, sha256, pending, self._live.seed, now_ns))
        self._committed_step = self._step.request.step
        self._live.session.prefill_ahead()

    def render(self, job: Job) -> list[Remembered]:
        """The replies to the last steps. Raises Refusal where a frame is not the recorded one."""
        remembered = []
        for one in self._last:
            start_ns = time.monotonic_ns()
            chunk = self._checked(one.pending.render())
            require_equal(chunk, one.sha256, one.step.request.step)
            stamps_ns = {
                "engine_start": job.t_recv_ns,
                "engine_end": one.end_ns,
                "decode_start": start_ns,
                "decode_end": time.monotonic_ns(),
            }
            request = one.step.request
            step = Job(sid=job.sid, request=request, t_recv_ns=job.t_recv_ns)
            infos = describe(chunk, step, request.step, one.seed, stamps_ns)
            remembered.append(Remembered(request, one.step.arrays, infos, chunk.images))
        return remembered


def require_equal(chunk: Chunk | None, sha256: Sequence[str], step: int) -> None:
    """Raises Refusal: another machine, or another way to compute, gave other frames."""
    images = () if chunk is None else chunk.images
    hashes = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in images]
    if hashes != [*sha256]:
        raise Refusal(
            ErrorCode.ENGINE_FAILED,
            f"resume: step {step} does not come out as it was recorded; the model must run on the "
            "same kind of machine, with the same options",
        )
