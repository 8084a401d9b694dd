"""Rollouts of a preset's weights: how far the prediction follows the true drive, and how long it
remains stable.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from sim_stream.pipelines.tokens.runtime import Runtime
from train.data.ego import action_of
from train.data.split import Split
from train.measures import coarse, psnr8
from train.rollout_health import LAST, change, detail, ends, signs, sky_covariance, truths

PROMPT, HORIZON, LONG = 2, 14, 40
MOVING_MPS = 2.0


def rollout(runtime: Runtime, split: Split, start: int, steps: int, seed: int) -> np.ndarray:
    """Predicted frames (steps H W 3) under the drive's own actions, from its first two frames."""
    prompt = slice(start, start + PROMPT)
    session = runtime.open_session()
    with session:
        session.reset(
            split.images(prompt),
            seed=seed,
            actions=[action_of(row) for row in split.actions[prompt]],
        )
        frames = []
        for step in range(steps):
            frame = session.step(action_of(split.actions[start + PROMPT + step]))
            frames.append(frame)
        flushed = session.flush()
    shown = [f.image for f in [*frames, *([flushed] if flushed else [])] if f.frame_id >= 1]
    return np.stack(shown[:steps])


def moving_starts(split: Split, length: int, count: int) -> list[int]:
    """Rows that have `length` frames of one drive, evenly spread; the car moves in the first of
    them, as many as `per_horizon` looks at. Raises InvalidInput where no drive is so long.
    """
    starts, first = split.windows(length), min(length, PROMPT + HORIZON)
    moving = [s for s in starts if split.actions[s : s + first, 0].min() >= MOVING_MPS]
    usable = moving or starts.tolist()
    picked = np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)
    return [int(usable[i]) for i in picked]


def per_horizon(runtime: Runtime, split: Split, prompts: int = 24) -> dict[str, Any]:
    """PSNR in dB to the true drive, frame by frame, against repeating the last prompt frame.

    Also on frames averaged by 4: full frames punish grain that nobody could predict.
    """
    kinds = ("predicted", "last_frame", "predicted_coarse", "last_frame_coarse")
    values: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    starts = moving_starts(split, PROMPT + HORIZON, prompts)
    for seed, start in enumerate(tqdm(starts, desc="14 frames", unit="rollout")):
        made = rollout(runtime, split, start, HORIZON, seed)
        true = split.images(slice(start + PROMPT, start + PROMPT + HORIZON))
        last = split.images(slice(start + PROMPT - 1, start + PROMPT))[0]
        for kind in kinds:
            see = coarse if kind.endswith("coarse") else np.asarray
            guesses = made if kind.startswith("predicted") else [last] * HORIZON
            values[kind].append(
                [psnr8(see(a), see(b).astype(float)) for a, b in zip(guesses, true, strict=True)]
            )
    means = {f"{kind}_psnr_db": np.mean(v, 0).tolist() for kind, v in values.items()}
    return {"prompts": len(starts), **means}


def long_rollouts(
    runtime: Runtime, split: Split, prompts: int = 24, steps: int = LONG
) -> dict[str, Any]:
    """Shares that end frozen, flickering, collapsed, as noise or in another light; the rest stayed
    drives.

    All actions are the drive's own: a last one that is kept turns a car round on the spot.
    """
    starts = moving_starts(split, PROMPT + steps, prompts)
    true = [split.images(slice(start, start + PROMPT + steps)) for start in starts]
    speeds = [split.actions[start : start + PROMPT + steps, 0] for start in starts]
    stand = [bool(speed[-LAST:].mean() < MOVING_MPS) for speed in speeds]
    covariance, held_against = sky_covariance(true), truths(true)
    found, details, changes = [], [], []
    about = zip(starts, held_against, strict=True)
    bar = tqdm(about, desc=f"{steps} frames", unit="rollout", total=len(starts))
    for seed, (start, truth) in enumerate(bar):
        made = rollout(runtime, split, start, steps, seed)
        found.append(signs(made, truth, covariance))
        details.append(detail(made) / truth.detail)
        changes.append(change(made) / truth.change)
    ended = [ends(s, stands) for s, stands in zip(found, stand, strict=True)]
    true_ended = [
        ends(signs(drive, truth, covariance), stands)
        for drive, truth, stands in zip(true, held_against, stand, strict=True)
    ]
    return {
        "prompts": len(starts),
        "frames": steps,
        **{f"{name}_share": float(np.mean([e[name] for e in ended])) for name in ended[0]},
        "alive_share": alive_share(ended),
        "true_drives_alive_share": alive_share(true_ended),
        "signs": [{k: round(v, 3) for k, v in s._asdict().items()} for s in found],
        "detail_by_frame": np.mean(details, 0).round(3).tolist(),
        "change_by_frame": np.mean(changes, 0).round(3).tolist(),
        "sky_covariance": covariance.round(3).tolist(),
    }


def alive_share(ended: list[dict[str, bool]]) -> float:
    return float(np.mean([not any(each.values()) for each in ended]))
