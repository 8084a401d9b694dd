"""The report of `evaluate --protocol openviga`: text tables, and a page with frames to look at."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim_stream.models.vq_model import to_pixels
from train import paper
from train.data.split import Split
from train.protocol import Models, Protocol, clips_of, made_clips

MISSING = "-"
TOO_SMALL = " too small: biased"
# The table's name of a metric -> ours.
OURS = {"LPIPS": "LPIPS-alex"}


def value_of(figures: Mapping[str, Any], metric: str) -> str:
    """The figure; of a distance with its n, marked where n is too small to stand beside others."""
    found = figures.get(OURS.get(metric, metric))
    if found is None:
        return MISSING
    samples = figures.get("samples", {}).get(metric)
    if samples is None:
        return f"{found:.4g}"
    biased = TOO_SMALL if samples["too_small"] else ""
    return f"{found:.4g} (n={samples['count']}{biased})"


def table(
    title: str,
    rows: Mapping[str, paper.Row],
    metrics: Sequence[str],
    measured: Mapping[str, Mapping[str, Any]],
) -> list[list[str]]:
    """Title row, header, then the paper's rows with the measured figures beside them."""
    header = ["", *(f"{m} paper" for m in metrics), *(f"{m} here" for m in metrics)]
    lines = [[title], header]
    for name, values in rows.items():
        here = [value_of(measured.get(name, {}), m) for m in metrics]
        lines.append([name, *(f"{v:g}" for v in values), *here])
    for name in measured.keys() - rows.keys():
        here = [value_of(measured[name], m) for m in metrics]
        lines.append([name, *([MISSING] * len(metrics)), *here])
    return lines


def tables(found: Mapping[str, Any]) -> list[list[list[str]]]:
    """Tables II to VI with what was measured."""
    systems, reconstruction = found["systems"], found.get("reconstruction")
    still = {"measured": reconstruction} if reconstruction else {}
    at_50 = {name: systems[name] for name in ("TOK+WM+DEC k=50",) if name in systems}
    final = {name: systems[name] for name in paper.TABLE_VI if name in systems}
    return [
        table("Table II: losses", paper.TABLE_II, paper.RECONSTRUCTION, still),
        table(
            "Table III: discriminator, lambda' / lambda_G",
            paper.TABLE_III,
            paper.RECONSTRUCTION,
            still,
        ),
        table("Table IV: teachers, TOK+WM+DEC k=50", paper.TABLE_IV, paper.GENERATION, at_50),
        table("Table V: top-k", paper.TABLE_V, paper.GENERATION, systems),
        table("Table VI: decoders", paper.TABLE_VI, paper.GENERATION, final),
    ]


def text(found: Mapping[str, Any]) -> str:
    """What is printed: tables in columns, then what was refused and why."""
    parts = [
        f"{found['videos']} videos, T = {found['prompt_frames']}, N = {found['predicted_frames']}, "
        f"weights {found['weights_sha256'][:12]} ({found['preset']})"
    ]
    if found["videos"] != 500:
        parts.append("FID, CMMD and FVD depend on the number of videos: the paper's are of 500.")
    for (title,), *rows in tables(found):
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        parts.append("\n".join([title, *lines]))
    refused = {
        name: why
        for figures in [*found["systems"].values(), found.get("reconstruction") or {}]
        for name, why in figures.get("refused", {}).items()
    }
    parts += [f"not computed: {name}: {why}" for name, why in refused.items()]
    parts += [
        f"{name} of {n} samples is biased upwards, and no paper's {name} compares with it: "
        f"from {least} on its covariance has full rank"
        for name, (n, least) in too_small(found).items()
    ]
    return "\n\n".join(parts)


def too_small(found: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Metric -> (samples, those it takes), where there are too few."""
    measured = [*found["systems"].values(), found.get("reconstruction") or {}]
    return {
        name: (samples["count"], samples["sound_from"])
        for figures in measured
        for name, samples in figures.get("samples", {}).items()
        if samples["too_small"]
    }


def strip(frames_THWC: np.ndarray) -> str:
    """Frames side by side, as an image that a page can hold."""
    from PIL import Image

    data = io.BytesIO()
    row = np.concatenate([*frames_THWC], 1)
    Image.fromarray(row).resize((row.shape[1] // 2, row.shape[0] // 2)).save(
        data, "JPEG", quality=85
    )
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{encoded}">'


def page(
    found: Mapping[str, Any],
    models: Models,
    split: Split,
    protocol: Protocol,
    predicted: Mapping[int, np.ndarray],
    videos: int = 6,
) -> str:
    """A page that stands alone: tables, curves per horizon, and frames of a few videos."""
    starts = clips_of(split, protocol)
    shown = np.linspace(0, len(starts) - 1, min(videos, len(starts))).astype(int)
    body = [f"<pre>{html.escape(text(found))}</pre>", "<h2>Per horizon</h2>", horizons(found)]
    for index in shown:
        start = starts[index]
        body.append(f"<h2>video {index}</h2><p>true, prompt first</p>")
        length = protocol.prompt + protocol.predicted
        body.append(strip(split.images(slice(start, start + length))))
        choices: list[tuple[str, np.ndarray | None, bool]] = [("TOK+VDEC", None, True)]
        choices += [
            (f"TOK+WM+VDEC k={k}", ids[index : index + 1], True) for k, ids in predicted.items()
        ]
        for name, ids, video in choices:
            _, made = next(made_clips(models, split, [start], ids, protocol, video=video))
            body.append(f"<p>{name}, frames {protocol.prompt + 1} to {length}</p>")
            body.append(strip(to_pixels(made[0]).numpy()))
    style = "<style>body{font:14px sans-serif;margin:2em}img{display:block;max-width:100%}</style>"
    return f"<!doctype html><meta charset=utf-8><title>Evaluation</title>{style}{''.join(body)}"


def horizons(found: Mapping[str, Any]) -> str:
    """Paired metrics per predicted frame, as tables."""
    parts = []
    for name, figures in found["systems"].items():
        rows = "".join(
            f"<tr><td>{metric}</td>" + "".join(f"<td>{v:.3g}</td>" for v in values) + "</tr>"
            for metric, values in figures["per_horizon"].items()
        )
        parts.append(f"<h3>{html.escape(name)}</h3><table>{rows}</table>")
    return "".join(parts)
