"""What every decoding strategy is to a session.

Legend: P leading ids, N codes of a frame, V codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.decoded import Decoded


class Strategy(Protocol):
    def decode(
        self,
        lead_1P: Tensor,
        noise_NV: Tensor,
        sampling: SamplingConfig,
        guess_N: Tensor,
        expired: Callable[[], bool] | None = None,
    ) -> Decoded:
        """Codes of the next frame.

        `lead_1P`: what stands between the cache and the first code (pending ids, actions).
        `guess_N`: what the codes may be. `expired`: whether time is up; None: it never is. The
        cache then holds what is certain, but for the last code, or all codes but the last.
        """
        ...
