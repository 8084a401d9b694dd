"""Everything that was measured as one JSON-ready report; ``table`` and ``page`` only show it.

Times are milliseconds. Knows replies and bounds; not how they came about.

`end_to_end`: from when a step was due to its reply being here. `motion_to_photon`: from when an
action was due to the frame that it led to being here; with a lookahead that frame comes a step
later. An action that comes up between two frame boundaries first waits for the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sim_stream.bench import stats
from sim_stream.bench.paced import Reply
from sim_stream.bench.roofline import Bound, Stages
from sim_stream.bench.sweep import WindowTime

# What a reply passes on its way, in order; a stage that a run never met is left out.
OPENING = ("encode", "prefill")
STAGES = (
    *("prefill_ahead", "queue", "re_anchor", "world_model", "decode_queue", "video_decode", "wire"),
    *("round_trip", "end_to_end", "motion_to_photon"),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's replies; the first ``warm_up`` are shown, but count for nothing.

    ``opened_ns``: the stages of the session's first frame, which has a prompt to encode.
    """

    pace_fps: float | None
    warm_up: int
    replies: Sequence[Reply]
    opened_ns: Mapping[str, int]

    @property
    def name(self) -> str:
        if self.pace_fps is None:
            return "free"
        return f"{self.pace_fps:g} {'fps' if self.frames_per_step == 1 else 'steps a second'}"

    @property
    def frames_per_step(self) -> int:
        return self.replies[-1].frames

    @property
    def counted(self) -> Sequence[Reply]:
        return self.replies[self.warm_up :]

    @property
    def period_ms(self) -> float | None:
        return None if self.pace_fps is None else 1e3 / self.pace_fps


def run_report(run: Run, stages: Stages | None, *, trained: bool) -> dict[str, Any]:
    """``stages`` None: nothing has a bound. ``trained``: whether accept lengths mean anything."""
    counted = run.counted
    timings_ms = stage_timings_ms(run)
    arrivals_ms = [reply.recv_ns / 1e6 for reply in counted]
    span_s = (arrivals_ms[-1] - arrivals_ms[0]) / 1e3
    report: dict[str, Any] = {
        "name": run.name,
        "pace_fps": run.pace_fps,
        "frames": len(counted),
        "warm_up": run.warm_up,
        "frames_per_step": run.frames_per_step,
        "fps": round(run.frames_per_step * (len(counted) - 1) / span_s, 3),
        "open_ms": {stage: round(ns / 1e6, 3) for stage, ns in run.opened_ns.items()},
        "latency_ms": {stage: stats.summarise(ms) for stage, ms in timings_ms.items()},
        "jitter": stats.jitter(arrivals_ms, run.period_ms),
        "deadline": None,
        "approximated": sum(reply.approximated for reply in counted),
        "roofline": {} if stages is None else roofline(run, timings_ms, stages),
        "series": _series(run),
    }
    if run.period_ms is not None:
        missed = stats.misses(timings_ms["end_to_end"], run.period_ms)
        report["deadline"] = {"deadline_ms": round(run.period_ms, 3), **asdict(missed)}
        report["motion_to_photon_ms"] = _motion_to_photon(report, run.period_ms)
    if trained and any(reply.accepted for reply in counted):
        report["passes"] = stats.histogram(len(reply.accepted) for reply in counted)
        report["accepted"] = stats.histogram(n for reply in counted for n in reply.accepted)
    return report


def stage_timings_ms(run: Run) -> dict[str, list[float]]:
    """Stage -> the counted replies' times; a stage that only some replies have gives only those."""
    found: dict[str, list[float]] = {}
    for reply in run.counted:
        named = {**reply.timings_ns, "end_to_end": reply.latency_ns}
        for stage, duration_ns in named.items():
            found.setdefault(stage, []).append(duration_ns / 1e6)
    found["motion_to_photon"] = _photons_ms(run)
    known = [stage for stage in STAGES if found.get(stage)]
    return {stage: found[stage] for stage in (*known, *sorted(set(found) - set(STAGES)))}


def _photons_ms(run: Run) -> list[float]:
    """Of every counted step whose frame came within the run."""
    shown_ns: dict[int, int] = {}
    for reply in run.replies:
        if reply.final:
            shown_ns.setdefault(reply.shown_step, reply.recv_ns)
    return [(shown_ns[r.step] - r.due_ns) / 1e6 for r in run.counted if r.step in shown_ns]


def _motion_to_photon(report: dict[str, Any], period_ms: float) -> dict[str, float | None]:
    """With the wait for the frame boundary: half a period and the median, a period and the most."""
    photon = report["latency_ms"]["motion_to_photon"]
    return {
        "typical": round(photon["p50"] + period_ms / 2, 3),
        "worst": round(photon["max"] + period_ms, 3),
    }


def roofline(
    run: Run, timings_ms: dict[str, list[float]], stages: Stages
) -> dict[str, dict[str, Any]]:
    """Of every stage with a bound: its milliseconds, what sets it, and bound / mean measured.

    The world model's bound is that of the passes that really ran.
    """
    means_ms = {stage: ns / 1e6 for stage, ns in run.opened_ns.items() if stage in OPENING}
    means_ms |= {stage: stats.mean(ms) for stage, ms in timings_ms.items()}
    bounds = stages.bounds()
    decoded = [stages.decode_bound(reply.accepted) for reply in run.counted if reply.accepted]
    if decoded:
        ms = stats.mean([bound.ms for bound in decoded])
        bounds["world_model"] = Bound(ms=ms, by=decoded[0].by)
    return {
        stage: fraction(bounds[stage], means_ms[stage])
        for stage in (*OPENING, *STAGES)
        if stage in bounds and stage in means_ms
    }


def fraction(bound: Bound, measured_ms: float) -> dict[str, Any]:
    return {
        "bound_ms": round(bound.ms, 4),
        "bound_by": bound.by,
        "measured_ms": round(measured_ms, 4),
        "fraction": round(bound.ms / measured_ms, 4),
    }


def _series(run: Run) -> dict[str, list[Any]]:
    """Per reply, warm-up included: what the page plots over time."""
    start_ns = run.replies[0].due_ns
    return {
        "due_s": [round((reply.due_ns - start_ns) / 1e9, 6) for reply in run.replies],
        "end_to_end_ms": [round(reply.latency_ns / 1e6, 3) for reply in run.replies],
        "re_anchor": [reply.timings_ns.get("re_anchor", 0) > 0 for reply in run.replies],
    }


def sweep_report(times: Iterable[WindowTime], stages: Stages) -> list[dict[str, Any]]:
    """Time of a pass by window length, each against its bound."""
    found = []
    for time in times:
        line = fraction(stages.pass_bound(time.size), time.p50_ms)
        found.append({"window": time.window, "min_ms": round(time.min_ms, 4), **line})
    return found
