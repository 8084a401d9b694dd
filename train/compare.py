"""`compare`: two or more weights folders of a preset on the same held-out drives.

    compare.json    every figure of `evaluate`, by folder
    compare.html    the figures side by side, rollouts per horizon, and frames to look at

Each folder's tokenizer makes the ids that its world model is measured on. Legend: T frames.
"""

from __future__ import annotations

import html
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim_stream.config import Preset
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.vq_model import VQModel
from sim_stream.pipelines.tokens.runtime import Runtime
from train.build import Sources, load_vq
from train.data.split import Split
from train.data.tokenize import tokenize
from train.evaluate import evaluate
from train.rollouts import HORIZON, PROMPT, moving_starts, rollout
from train.tables import strip

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One weights folder: its figures, and rollouts (T H W 3) of the prompts that are shown."""

    name: str
    figures: Figures
    rollouts: Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One weights folder's models."""

    name: str
    runtime: Runtime
    tokenizer: VQModel

    @classmethod
    def load(cls, preset: Preset, folder: Path, device: str) -> Contender:
        return cls(
            name=folder.resolve().name,
            runtime=Runtime.load(preset.name, weights=folder, device=device),
            tokenizer=load_vq(preset, Sources(cache=Path(), init=folder)),
        )


def compare(
    contenders: Sequence[Contender],
    split: Split,
    out: Path,
    *,
    measure: Callable[[Runtime, Split], Figures] = evaluate,
    shown: int = 6,
) -> tuple[dict[str, Figures], str]:
    """The figures by name, and the page; `out` keeps the ids. Raises InvalidInput."""
    names = [contender.name for contender in contenders]
    if len(set(names)) < max(2, len(names)):
        raise InvalidInput("weights", ", ".join(names), "two or more folders of different names")
    require_matplotlib()
    starts = moving_starts(split, PROMPT + HORIZON, shown)
    measured = []
    for one in contenders:
        own = with_own_ids(split, one.tokenizer, out / "ids" / one.name)
        made = [
            rollout(one.runtime, own, start, HORIZON, seed) for seed, start in enumerate(starts)
        ]
        measured.append(Measured(name=one.name, figures=measure(one.runtime, own), rollouts=made))
    return {m.name: m.figures for m in measured}, page(measured, split, starts)


def with_own_ids(split: Split, tokenizer: VQModel, folder: Path) -> Split:
    """The same frames and actions with this tokenizer's ids, kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    own = replace(split, folder=folder)
    tokenize(own, tokenizer)
    return own


def scalars(figures: Figures, prefix: str = "") -> dict[str, float]:
    """Every single number of nested figures, by its path."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name} ")
        elif isinstance(value, (int, float)):
            found[prefix + name] = float(value)
    return found


def text(figures: Mapping[str, Figures]) -> str:
    """The figures in columns, a folder each."""
    columns = {name: scalars(found) for name, found in figures.items()}
    rows = [["", *columns]]
    rows += [
        [key, *(f"{c[key]:.4g}" if key in c else "-" for c in columns.values())]
        for key in dict.fromkeys(key for column in columns.values() for key in column)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def page(measured: Sequence[Measured], split: Split, starts: Sequence[int]) -> str:
    """A page that stands alone."""
    body = [f"<pre>{html.escape(text({m.name: m.figures for m in measured}))}</pre>"]
    body.append(horizons(measured))
    for index, start in enumerate(starts):
        true = split.images(slice(start, start + PROMPT + HORIZON))
        body.append(f"<h2>prompt {index}</h2><p>true, from the last prompt frame on</p>")
        body.append(strip(true[PROMPT - 1 :: 2]))
        for one in measured:
            with_prompt = np.concatenate([true[PROMPT - 1 : PROMPT], one.rollouts[index]])
            body.append(f"<p>{html.escape(one.name)}</p>{strip(with_prompt[::2])}")
    style = (
        "<style>body{font:14px sans-serif;margin:2em}img,svg{display:block;max-width:100%}</style>"
    )
    return f"<!doctype html><meta charset=utf-8><title>Comparison</title>{style}{''.join(body)}"


def require_matplotlib() -> None:
    """Asked before hours of measuring. Raises Unavailable."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unavailable("matplotlib is missing: pip install 'sim-stream[train]'")


def horizons(measured: Sequence[Measured]) -> str:
    """PSNR over the horizon, and how much long rollouts show and move, as one SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    near, *far = figure.subplots(1, 3)
    for one in measured:
        short, long = one.figures["rollouts"], one.figures["long_rollouts"]
        near.plot(range(1, HORIZON + 1), short["predicted_coarse_psnr_db"], label=one.name)
        for axes, kind in zip(far, ("detail", "change"), strict=True):
            axes.plot(long[f"{kind}_by_frame"], label=one.name)
    last = measured[0].figures["rollouts"]["last_frame_coarse_psnr_db"]
    near.plot(range(1, HORIZON + 1), last, "k:", label="last prompt frame")
    near.set(xlabel="frame", ylabel="PSNR to the true drive (dB)", title="averaged by 4")
    for axes, title in zip(far, ("detail", "change from frame to frame"), strict=True):
        axes.axhline(1.0, color="k", linestyle=":")
        axes.set(xlabel="frame", ylabel="share of the true drives'", title=title, ylim=(0, None))
    near.legend()
    data = io.StringIO()
    figure.savefig(data, format="svg")
    return data.getvalue()[data.getvalue().index("<svg") :]
