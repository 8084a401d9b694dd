"""The report's figures, drawn by matplotlib without a screen. Colours stay apart in any eyes.

Each function takes the report and gives a figure, or None where it has nothing to show. Computes
nothing that the report does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito's palette: black keeps its meaning as "limit", orange as "re-anchoring".
RUN_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#882255", "#999933")
ORANGE, LIMIT, PALE = "#D55E00", "#222222", "#EEEEEE"
WIDTH_IN = 9.0
LOG_FROM = 5.0
BINS = 24
# What a reply waits for or is worked on by; the sums over them stand in the tables.
BREAKDOWN = (
    "prefill_ahead",
    "queue",
    "re_anchor",
    "world_model",
    "decode_queue",
    "video_decode",
    "wire",
)
TOTALS = ("round_trip", "end_to_end", "motion_to_photon")

Report = dict[str, Any]


def latency_over_time(report: Report) -> Figure:
    """One row a run; the steps that re-anchor and the deadline are visible."""
    runs = report["runs"]
    figure = _figure(0.6 + 1.9 * len(runs))
    rows = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for colour, run, axes in zip(_colours(runs), runs, rows, strict=True):
        _one_run_over_time(axes, run, colour)
    rows[-1].set_xlabel("time since the first step was due (s)")
    handles = {label: handle for axes in rows for handle, label in zip(*_legend(axes), strict=True)}
    figure.legend(
        handles.values(),
        handles,
        loc="outside lower left",
        ncols=max(1, len(handles)),
        frameon=False,
    )
    figure.suptitle("Latency of every step, from when it was due", x=0.01, ha="left")
    return figure


def _one_run_over_time(axes: Axes, run: Report, colour: str) -> None:
    series = run["series"]
    due_s, latency_ms = np.array(series["due_s"]), np.array(series["end_to_end_ms"])
    anchored = np.array(series["re_anchor"], dtype=bool)
    axes.plot(due_s, latency_ms, color=colour, linewidth=0.8, alpha=0.5)
    axes.scatter(due_s[~anchored], latency_ms[~anchored], s=9, color=colour, zorder=3)
    if anchored.any():
        axes.scatter(
            due_s[anchored], latency_ms[anchored], s=12, color=ORANGE, zorder=3,
            label="step that re-anchors",
        )  # fmt: skip
    if run["deadline"]:
        axes.axhline(run["deadline"]["deadline_ms"], color=LIMIT, linestyle="--", linewidth=1,
                     label="deadline: one period")  # fmt: skip
    if run["warm_up"]:
        span = (due_s[0], due_s[min(run["warm_up"], len(due_s) - 1)])
        axes.axvspan(*span, color=PALE, zorder=0, label="warm-up, not counted")
    axes.set_title(f"{run_name(run)}: {run['fps']:.1f} frames a second", fontsize=9, loc="left")
    axes.set_ylabel("latency (ms)")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)


def distribution(report: Report) -> Figure:
    """Cumulative distribution of the counted replies' latency."""
    figure = _figure(3.6)
    axes = figure.subplots()
    longest_ms = [run["latency_ms"]["end_to_end"]["max"] for run in report["runs"]]
    for colour, run in zip(_colours(report["runs"]), report["runs"], strict=True):
        latency_ms = np.sort(run["series"]["end_to_end_ms"][run["warm_up"] :])
        share = 100 * np.arange(1, len(latency_ms) + 1) / len(latency_ms)
        axes.step(latency_ms, share, where="post", color=colour, label=run_name(run))
        if run["deadline"]:
            axes.axvline(run["deadline"]["deadline_ms"], color=colour, linestyle=":", linewidth=1)
    if any(run["deadline"] for run in report["runs"]):
        axes.plot([], [], color=LIMIT, linestyle=":", linewidth=1, label="its deadline")
    axes.set(xlabel="latency from when the step was due (ms)", ylabel="replies that fast (%)")
    axes.set_ylim(0, 101)
    if max(longest_ms) > LOG_FROM * min(longest_ms):  # a pace that cannot be kept
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(_two_and_five))
    else:
        axes.set_xlim(left=0)
    axes.set_title("Distribution of the end-to-end latency", loc="left")
    figure.legend(loc="outside right center", frameon=False)
    return figure


def breakdown(report: Report) -> Figure:
    """Median time in each stage, with the line to p95 (or the longest where p95 is unknown)."""
    runs = report["runs"]
    met = dict.fromkeys(stage for run in runs for stage in run["latency_ms"])
    own = [stage for stage in met if stage not in (*BREAKDOWN, *TOTALS)]  # of a user's model
    stages = [*(stage for stage in BREAKDOWN if stage in met), *own]
    figure = _figure(0.9 + len(stages) * (0.28 + 0.13 * len(runs)))
    axes = figure.subplots()
    for index, (colour, run) in enumerate(zip(_colours(runs), runs, strict=True)):
        there = [stage for stage in stages if stage in run["latency_ms"]]
        summaries = [run["latency_ms"][stage] for stage in there]
        p50 = [summary["max" if summary["p50"] is None else "p50"] for summary in summaries]
        high = [summary["max" if summary["p95"] is None else "p95"] for summary in summaries]
        places, height = _places(there, stages, index, len(runs))
        axes.barh(places, p50, height, color=colour, label=run_name(run))
        axes.hlines(places, p50, high, color=LIMIT, linewidth=1)
    _name_rows(axes, [stage.replace("_", " ") for stage in stages])
    axes.set_xlabel("time (ms): bar to the median, line to p95 (to the longest, if p95 is unknown)")
    axes.set_title("Where the time goes", loc="left")
    axes.legend(loc="best", frameon=False)
    return figure


def roofline(report: Report) -> Figure | None:
    """Bound / measured of every stage that has a bound."""
    runs = report["runs"]
    stages = list(dict.fromkeys(stage for run in runs for stage in run["roofline"]))
    if not stages:
        return None
    figure = _figure(0.9 + len(stages) * (0.28 + 0.13 * len(runs)))
    axes = figure.subplots()
    for index, (colour, run) in enumerate(zip(_colours(runs), runs, strict=True)):
        there = [stage for stage in stages if stage in run["roofline"]]
        percent = [100 * run["roofline"][stage]["fraction"] for stage in there]
        places, height = _places(there, stages, index, len(runs))
        bars = axes.barh(places, percent, height, color=colour, label=run_name(run))
        axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=7)
    by = {s: run["roofline"][s]["bound_by"] for run in runs for s in run["roofline"]}
    _name_rows(axes, [f"{stage.replace('_', ' ')}\n(bound by {by[stage]})" for stage in stages])
    axes.axvline(100, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_xlim(0, max(110.0, axes.get_xlim()[1]))
    axes.set_xlabel("time that the calibrated rates allow / time measured (%)")
    axes.set_title("How close each stage comes to what this machine can do", loc="left")
    axes.legend(loc="best", frameon=False)
    return figure


def accepted(report: Report) -> Figure | None:
    """Codes a pass and passes a frame, all runs together: what is decoded does not depend on pace.

    Nothing where every pass brings one code, or where weights are random.
    """
    lengths, passes = _pooled(report, "accepted"), _pooled(report, "passes")
    if len(lengths) < 2:
        return None
    figure = _figure(3.3)
    left, right = figure.subplots(1, 2)
    left.bar(list(lengths), _percent(lengths), color=RUN_COLOURS[0])
    left.set(xlabel="codes that a pass added", ylabel="passes (%)")
    left.set_title(f"Accept lengths: {_mean(lengths):.2f} tokens per pass", loc="left")
    bins = min(BINS, max(passes) - min(passes) + 1)
    right.hist(list(passes), bins, weights=_percent(passes), color=RUN_COLOURS[1])
    right.set(xlabel="passes that a frame took", ylabel="frames (%)")
    right.set_title(f"{_mean(passes):.1f} passes a frame", loc="left")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _pooled(report: Report, key: str) -> Counter[int]:
    pooled: Counter[int] = Counter()
    for run in report["runs"]:
        pooled.update({int(value): count for value, count in run.get(key, {}).items()})
    return pooled


def _mean(counts: Counter[int]) -> float:
    return sum(value * count for value, count in counts.items()) / counts.total()


def _percent(counts: Counter[int]) -> list[float]:
    return [100 * count / counts.total() for count in counts.values()]


def sweep(report: Report) -> Figure | None:
    """Time of a pass by the number of codes it draws, against its bound."""
    lines = report.get("sweep")
    if not lines:
        return None
    figure = _figure(3.6)
    axes = figure.subplots()
    window = [line["window"] for line in lines]
    axes.plot(window, [line["measured_ms"] for line in lines], marker="o", color=RUN_COLOURS[0],
              label="measured (median)")  # fmt: skip
    axes.plot(window, [line["bound_ms"] for line in lines], linestyle="--", color=LIMIT,
              label="what the calibrated rates allow")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xticks(window, [str(codes) for codes in window])
    axes.yaxis.set_major_formatter(plain)
    axes.set(xlabel="window: codes drawn by one pass", ylabel="time of the pass (ms)")
    axes.set_title("One pass of the world model by window length", loc="left")
    axes.legend(frameon=False)
    return figure


def _two_and_five(value: float, _: object) -> str:
    """Minor ticks of a logarithmic axis, as far as there is room for their numbers."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def run_name(run: Report) -> str:
    return "free-running" if run["pace_fps"] is None else f"paced at {run['name']}"


def _figure(height_in: float) -> Figure:
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def _colours(runs: Sequence[Report]) -> list[str]:
    return [RUN_COLOURS[index % len(RUN_COLOURS)] for index in range(len(runs))]


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    return axes.get_legend_handles_labels()


def _places(
    there: Sequence[str], stages: Sequence[str], run: int, runs: int
) -> tuple[list[float], float]:
    """Where a run's bars lie among the rows, and how high they are."""
    height = 0.8 / runs
    return [stages.index(stage) + (run - (runs - 1) / 2) * height for stage in there], 0.9 * height


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
