"""The report as one HTML file that needs nothing else: figures are in it, no network is asked.

Shows what the report holds and computes nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from sim_stream.bench import plots
from sim_stream.bench.stats import PERCENTILES, name_of
from sim_stream.bench.table import as_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { width: 100%; } figure { margin: 1.2rem 0; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
caption { text-align: left; font-weight: 600; padding: .2rem .7rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
.note { background: #fff4d6; padding: .5rem .8rem; }
"""
FIGURE_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "sim-stream",  # the same report gives the same page
}
TERMS = (
    "Milliseconds from when a step was due to its reply being here, the wire included. Late: later "
    "than the period of the pace. Jitter: standard deviation of the time between replies. A "
    "percentile that the samples cannot support is left out."
)
CAPTIONS = {
    "latency_over_time": "A step that had to wait for others counts from when it was due, not from "
    "when it could be sent. A rising line is a pace that the machine cannot keep.",
    "distribution": "How large a part of the replies came within a time; dotted: the period of "
    "that pace.",
    "breakdown": "World model and video decoder work side by side on different steps, so these "
    "times do not add up to a period. `wire` is everything outside the server's queues and models.",
    "roofline": "100 % would be a stage that moves its bytes, or does its operations, at the rates "
    "calibrated before the run. `prefill`, `encode` and `re anchor` are single large passes.",
    "accepted": "With jacobi decoding a pass adds the codes up to the first wrong guess.",
    "sweep": "A pass reads all weights once whatever its window; where the line is flat, more "
    "tokens per pass are free.",
}


def as_html(report: dict[str, Any]) -> str:
    """The whole page."""
    title = f"sim-stream bench: {report['model_id']}"
    if "device" in report["system"]:
        title += f" on {report['system']['device']}"
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in report.get("notes", ())]
    body += ["<h2>End to end</h2>", _end_to_end(report["runs"]), f"<p>{escape(TERMS)}</p>"]
    body += ["<h2>Figures</h2>", *_figures(report)]
    body += ["<h2>What it ran on</h2>", *_facts(report)]
    body += ["<h2>All numbers</h2>", f"<pre>{escape(as_text(report))}</pre>"]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _facts(report: dict[str, Any]) -> Iterator[str]:
    """Small tables beside each other."""
    yield '<div class="row">'
    yield _pairs("machine", report["machine"])
    yield _pairs("system", report["system"])
    if "calibration" in report:
        rates = dict(report["calibration"])
        rates |= {f"gemm_tflop_per_s {k}": v for k, v in rates.pop("gemm_tflop_per_s").items()}
        yield _pairs("calibrated before the runs", rates)
    yield _pairs("cold start", report["cold_start"])
    yield "</div>"


def _pairs(title: str, values: dict[str, Any]) -> str:
    rows = (
        f"<tr><td>{escape(str(key).replace('_', ' '))}</td><td>{escape(_text(value))}</td></tr>"
        for key, value in values.items()
        if value is not None
    )
    return f"<table><caption>{escape(title)}</caption>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _end_to_end(runs: list[dict[str, Any]]) -> str:
    """One row a run."""
    percentiles = [name_of(percentile) for percentile in PERCENTILES]
    heads = ["", "fps", "n", *(f"{name} (ms)" for name in (*percentiles, "max"))]
    heads += ["late", "longest row", "jitter (ms)"]
    rows = []
    for run in runs:
        summary, deadline = run["latency_ms"]["end_to_end"], run["deadline"] or {}
        cells = [plots.run_name(run), f"{run['fps']:.2f}", summary["n"]]
        cells += [summary[name] for name in (*percentiles, "max")]
        cells += [deadline.get("count"), deadline.get("longest_run"), run["jitter"]["std_ms"]]
        texts = (_cell(cell) for cell in cells)
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cell(value: object) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def _figures(report: dict[str, Any]) -> Iterator[str]:
    for name, image in figures(report):
        yield (
            f'<figure><img alt="{escape(name.replace("_", " "))}" src="data:image/svg+xml;base64,'
            f'{base64.b64encode(image).decode()}">'
            f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
        )


def figures(report: dict[str, Any], kind: str = "svg") -> Iterator[tuple[str, bytes]]:
    """(name, file) of every figure that this report has something to show in."""
    for name in CAPTIONS:
        with mpl.rc_context(FIGURE_STYLE):
            figure: Figure | None = getattr(plots, name)(report)
            if figure is None:
                continue
            buffer = io.BytesIO()
            undated = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 110}
            figure.savefig(buffer, format=kind, **undated)
        yield name, buffer.getvalue()
