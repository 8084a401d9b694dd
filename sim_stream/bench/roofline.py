"""The time that a stage's bytes or operations would need at the calibrated rates.

The larger of the two is the bound; bound / measured is the stage's roofline fraction. A fraction
near 1 leaves nothing to gain but by moving or computing less. Knows which work each stage does, not
how it was measured. A stage that has no bound here (queues, wire) gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim_stream.bench.calibration import Calibration
from sim_stream.bench.counting import (
    PassSize,
    Storage,
    Work,
    frame_passes,
    kv_numbers_per_position,
    pass_work,
)
from sim_stream.config import DecodingConfig, Preset
from sim_stream.layout import FrameLayout


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Milliseconds at least, and what sets them: `memory` or `compute`."""

    ms: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What each stage of one system does. Types are named as in ``Calibration``."""

    preset: Preset
    layout: FrameLayout
    decoding: DecodingConfig
    calibration: Calibration
    storage: Storage
    world_model_type: str
    video_type: str
    encode: Work
    video_decode: Work
    prompt_frames: int

    def bounds(self) -> dict[str, Bound]:
        """Of every stage whose work does not depend on what is decoded; means over a stream."""
        return {
            "encode": self.bound(self.encode, self.world_model_type),
            "prefill": self._prefill(),
            "prefill_ahead": self._prefill_ahead(),
            "re_anchor": self._re_anchor(),
            "video_decode": self.bound(self.video_decode, self.video_type),
        }

    def decode_bound(self, accepted: Sequence[int]) -> Bound:
        """Of the world model's part of a step, from the codes that each pass added.

        The context is taken at its mean over a stream: from `anchor_frames` to full.
        """
        session, layout = self.preset.session, self.layout
        frames = (session.anchor_frames + session.context_frames - 1) / 2
        passes = frame_passes(
            self.decoding,
            accepted,
            lead=layout.lead_length,
            start=round(layout.prompt_length + frames * layout.frame_length) - 2,
            codes=layout.codes_per_frame,
        )
        bounds = [self.pass_bound(size) for size in passes]
        return Bound(ms=sum(bound.ms for bound in bounds), by=_slower(bounds))

    def pass_bound(self, size: PassSize) -> Bound:
        config = self.preset.world_model
        work = pass_work(config, size, self.storage, head_rows=self.layout.num_codes)
        return self.bound(work, self.world_model_type)

    def bound(self, work: Work, number_type: str) -> Bound:
        rates = self.calibration
        memory_ms = 1e3 * work.bytes / (rates.read_gb_per_s * 1e9)
        compute_ms = 1e3 * work.flop / (rates.gemm_tflop_per_s[number_type] * 1e12)
        if memory_ms >= compute_ms:
            return Bound(ms=memory_ms, by="memory")
        return Bound(ms=compute_ms, by="compute")

    def _prefill(self) -> Bound:
        """All ids of the prompt's frames but the last two, which stay pending."""
        ids = self.prompt_frames * self.layout.frame_length - 2
        return self.pass_bound(PassSize(ids=ids, rows=0, end=self.layout.prompt_length + ids))

    def _prefill_ahead(self) -> Bound:
        """The newest frames that are kept are prefilled ahead, one by one, between two switches.

        The noise of the next draws, which is made in the same stage, is left out.
        """
        session, ids = self.preset.session, self.layout.frame_length
        kept, first = session.anchor_frames, session.sink_frames
        frames = (kept - first) / (session.context_frames - kept)
        middle = self.layout.frame_start(0) + ids * (kept + first) // 2
        one = self.pass_bound(PassSize(ids=ids, rows=0, end=middle + ids))
        return Bound(ms=frames * one.ms, by=one.by)

    def _re_anchor(self) -> Bound:
        """Keys and values of the frames that are kept are read once and written once."""
        positions = self.layout.context_length(self.preset.session.anchor_frames)
        kept = positions * kv_numbers_per_position(self.preset.world_model) * self.storage.kv_bytes
        return self.bound(Work(flop=0, bytes=2 * kept), self.world_model_type)


def _slower(bounds: Sequence[Bound]) -> str:
    """What bounds most of the passes' time."""
    by_memory_ms = sum(bound.ms for bound in bounds if bound.by == "memory")
    return "memory" if 2 * by_memory_ms >= sum(bound.ms for bound in bounds) else "compute"
