"""Rollouts of a preset's weights: how far the prediction follows the true drive, and how long it
stays a drive.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from sim_stream.runtime.runtime import Runtime
from train.data.ego import action_of
from train.data.split import Split
from train.measures import coarse, psnr8

PROMPT, HORIZON, LONG = 2, 14, 40
# A rollout is frozen below this share of the true frames' change and flickers above this multiple
# of it; it collapsed below this share of their detail and is noise above this multiple of it.
FROZEN, FLICKERS, COLLAPSED, NOISE = 0.2, 2.0, 0.5, 2.0
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


def detail(frames_THWC: np.ndarray) -> np.ndarray:
    """Mean absolute gradient of each coarse frame, (T,): what a frame shows."""
    small = np.stack([coarse(f) for f in frames_THWC])
    return np.abs(np.diff(small, axis=1)).mean((1, 2, 3)) + np.abs(np.diff(small, axis=2)).mean(
        (1, 2, 3)
    )


def change(frames_THWC: np.ndarray) -> np.ndarray:
    """Mean absolute difference of neighbouring coarse frames, (T - 1,)."""
    small = np.stack([coarse(f) for f in frames_THWC])
    return np.abs(np.diff(small, axis=0)).mean((1, 2, 3))


def life(made_THWC: np.ndarray, true_detail: float, true_change: float) -> dict[str, bool]:
    """What became of a rollout's last eight frames, against what true drives of its light show."""
    tail = made_THWC[-8:]
    shown, moved = float(detail(tail).mean()), float(change(tail).mean())
    return {
        "frozen": moved < FROZEN * true_change,
        "flickering": moved > FLICKERS * true_change,
        "collapsed": shown < COLLAPSED * true_detail,
        "noise": shown > NOISE * true_detail,
    }


def long_rollouts(
    runtime: Runtime, split: Split, prompts: int = 24, steps: int = LONG
) -> dict[str, Any]:
    """Shares that end frozen, flickering, collapsed or as noise; the rest stayed drives.

    A dark drive shows less and changes less: detail is held against the own drive's, change against
    the mean of all drives' in proportion to their detail. All actions are the drive's own: a last
    one that is kept turns a car round on the spot.
    """
    starts = moving_starts(split, PROMPT + steps, prompts)
    true = [split.images(slice(s, s + PROMPT + HORIZON)) for s in starts]
    true_details = [float(detail(x).mean()) for x in true]
    restless = float(
        np.mean([change(x).mean() / d for x, d in zip(true, true_details, strict=True)])
    )
    ends, details, changes = [], [], []
    for seed, start in enumerate(tqdm(starts, desc=f"{steps} frames", unit="rollout")):
        true_detail, true_change = true_details[seed], restless * true_details[seed]
        made = rollout(runtime, split, start, steps, seed)
        ends.append(life(made, true_detail, true_change))
        details.append(detail(made) / true_detail)
        changes.append(change(made) / true_change)
    shares = {f"{name}_share": float(np.mean([e[name] for e in ends])) for name in ends[0]}
    return {
        "prompts": len(starts),
        "frames": steps,
        **shares,
        "alive_share": float(np.mean([not any(e.values()) for e in ends])),
        "detail_by_frame": np.mean(details, 0).round(3).tolist(),
        "change_by_frame": np.mean(changes, 0).round(3).tolist(),
    }
