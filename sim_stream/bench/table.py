"""The report as text for a terminal. Shows what is there and computes nothing."""

from __future__ import annotations

from typing import Any

from sim_stream.bench.stats import PERCENTILES, name_of

COLUMNS = ("n", *(name_of(percentile) for percentile in PERCENTILES), "max")
UNSUPPORTED = "-"


def as_text(report: dict[str, Any]) -> str:
    lines = [*_heading(report), "", *_cold_start(report["cold_start"])]
    for run in report["runs"]:
        lines += ["", *_run(run)]
    if "sweep" in report:
        lines += ["", *_sweep(report["sweep"])]
    lines += ["", f"{UNSUPPORTED}: too few samples for that percentile."]
    return "\n".join([*lines, *report.get("notes", ())])


def _heading(report: dict[str, Any]) -> list[str]:
    system, machine = report["system"], report["machine"]
    if "calibration" not in report:
        return [f"{report['model_id']} on {machine['cpu']}, load {machine['load_1min']:g}"]
    rates = report["calibration"]
    gemm = ", ".join(
        f"{1e3 * tflops:,.0f} GFLOP/s in {name}"
        for name, tflops in rates["gemm_tflop_per_s"].items()
    )
    place = machine["gpu"] if system["device"] == "cuda" else machine["cpu"]
    return [
        f"{report['model_id']} on {place}, {system['threads']} thread(s) a stage, {system['type']}"
        f" (video decoder {system['video_decoder_type']}), {system['decoding']} decoding,"
        f" lookahead {system['lookahead']}, load {machine['load_1min']:g}",
        f"calibrated: copy {rates['copy_gb_per_s']:,.1f} GB/s, read "
        f"{rates['read_gb_per_s']:,.1f} GB/s of {rates['read_bytes'] / 1e6:,.0f} MB, matrices "
        f"{gemm}",
    ]


def _cold_start(cold: dict[str, float]) -> list[str]:
    parts = [f"cold start: ready after {cold['start_to_ready_ms'] / 1e3:.1f} s"]
    if "open_first_frame_ms" in cold:
        part = f"first frame {cold['open_first_frame_ms']:.0f} ms"
        if "open_encode_ms" in cold:
            encode, prefill = cold["open_encode_ms"], cold["open_prefill_ms"]
            part += f" (encode {encode:.0f}, prefill {prefill:.0f})"
        parts.append(part)
    return ["; ".join([*parts, f"first step {cold['first_step_ms']:.0f} ms"])]


def _run(run: dict[str, Any]) -> list[str]:
    name = "free-running" if run["pace_fps"] is None else f"paced at {run['name']}"
    per_step = run["frames_per_step"]
    count = f"{run['frames']} {'frames' if per_step == 1 else f'steps of {per_step} frames'}"
    header = "".join(f"{column:>9}" for column in COLUMNS)
    lines = [
        f"{name}: {run['fps']:.2f} fps, {count} after {run['warm_up']} to warm up"
        + (f", {run['approximated']} approximated" if run["approximated"] else ""),
        f"  {'ms':17}{header}  roofline",
    ]
    for stage, summary in run["latency_ms"].items():
        figures = "".join(f"{_figure(summary[column]):>9}" for column in COLUMNS)
        lines.append(f"  {stage:17}{figures}  {_fraction(run['roofline'].get(stage))}".rstrip())
    for stage in ("encode", "prefill"):
        line = run["roofline"].get(stage)
        if line:  # once, when the session was opened
            figures = f"{1:>9}" + " " * 9 * (len(COLUMNS) - 2) + f"{line['measured_ms']:>9.1f}"
            lines.append(f"  {stage:17}{figures}  {_fraction(line)}")
    return lines + [f"  {line}" for line in _run_notes(run)]


def _run_notes(run: dict[str, Any]) -> list[str]:
    jitter, deadline = run["jitter"], run["deadline"]
    lines = [
        f"between frames: standard deviation {_ms(jitter['std_ms'])}, p99 deviation "
        f"{_ms(jitter['p99_deviation_ms'])}, longest {_ms(jitter['max_gap_ms'])}"
    ]
    if deadline:
        lines.append(
            f"replies later than a period ({deadline['deadline_ms']:.0f} ms): {deadline['count']} "
            f"of {run['frames']}, longest run {deadline['longest_run']}"
        )
        photon = run["motion_to_photon_ms"]
        lines.append(
            f"motion to photon with the wait for the frame boundary: {_ms(photon['typical'])} "
            f"typically, {_ms(photon['worst'])} at worst"
        )
    if "passes" in run:
        lines.append(
            f"passes a frame: {spread(run['passes'])}; tokens per pass: {spread(run['accepted'])}"
        )
    return lines


def _sweep(sweep: list[dict[str, Any]]) -> list[str]:
    lines = ["one pass by window length", "  codes    p50 ms    min ms  us a code  roofline"]
    return lines + [
        f"  {line['window']:>5} {line['measured_ms']:>9.3f} {line['min_ms']:>9.3f}"
        f" {1e3 * line['measured_ms'] / line['window']:>10.1f}  {_fraction(line)}"
        for line in sweep
    ]


def spread(histogram: dict[str, int]) -> str:
    """Least, mean and most of a histogram."""
    values = [int(value) for value in histogram]
    total = sum(histogram.values())
    mean = sum(int(value) * count for value, count in histogram.items()) / total
    if len(values) == 1:
        return f"{values[0]}"
    return f"{min(values)} to {max(values)}, mean {mean:.1f}"


def _fraction(line: dict[str, Any] | None) -> str:
    return "" if line is None else f"{line['fraction']:6.1%} of {line['bound_by']}"


def _figure(value: float | int | None) -> str:
    if value is None:
        return UNSUPPORTED
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return UNSUPPORTED if value is None else f"{value:.1f} ms"
