"""Rollouts of a preset's weights: how far the prediction follows the true drive, and how long it
stays a drive.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from sim_stream.runtime.runtime import Runtime
from train.data.ego import action_of
from train.data.split import Split
from train.measures import coarse, psnr8

PROMPT, HORIZON, LONG = 2, 14, 40
# A rollout is frozen below this share of the true frames' change and flickers above this multiple
# of it; it collapsed below this share of their detail and is noise above this multiple of it. Its
# light turned where its sky is farther from the drive's than so many times what a drive's own sky
# differs (true frames: up to 6; dusk and night, the nearest of all
# lights but day and overcast: from 9.3 up).
FROZEN, FLICKERS, COLLAPSED, NOISE, TURNED = 0.2, 2.0, 0.5, 2.0, 9.0
SKY = 0.25  # of a frame's height
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


def sky(frames_THWC: np.ndarray) -> np.ndarray:
    """Mean colour of the upper quarter of each frame, (T 3)."""
    upper = frames_THWC[:, : round(SKY * frames_THWC.shape[1])]
    return np.asarray(upper.mean((1, 2), dtype=np.float64))


@dataclass(frozen=True)
class Truth:
    """What a true drive's first frames show: what a rollout of it is held against."""

    detail: float
    change: float  # of the mean drive, in proportion to this one's detail
    sky: np.ndarray  # (3,)


def truths(drives: Sequence[np.ndarray]) -> list[Truth]:
    """Of each true drive (T H W 3), from its first frames.

    A dark drive shows less and changes less: change is the mean of all drives' in proportion to
    their detail.
    """
    first = [drive[: PROMPT + HORIZON] for drive in drives]
    details = [float(detail(x).mean()) for x in first]
    restless = float(np.mean([change(x).mean() / d for x, d in zip(first, details, strict=True)]))
    return [Truth(d, restless * d, sky(x).mean(0)) for x, d in zip(first, details, strict=True)]


def sky_covariance(drives: Sequence[np.ndarray]) -> np.ndarray:
    """How a true drive's sky differs from that of its first frames as the car turns, (3 3).

    By it a day's blue sky is far from dusk and near to its own clouds; the colours alone do not
    tell. One grey level is added: a sky that never changes may be encoded a little otherwise.
    """
    apart = [sky(drive) - sky(drive[: PROMPT + HORIZON]).mean(0) for drive in drives]
    differences = np.concatenate(apart)
    return np.asarray(differences.T @ differences / len(differences) + np.eye(3))


def life(made_THWC: np.ndarray, truth: Truth, covariance: np.ndarray) -> dict[str, bool]:
    """What became of a rollout's last eight frames; `covariance`: of skies (3 3)."""
    tail = made_THWC[-8:]
    shown, moved = float(detail(tail).mean()), float(change(tail).mean())
    apart = sky(tail).mean(0) - truth.sky
    return {
        "frozen": moved < FROZEN * truth.change,
        "flickering": moved > FLICKERS * truth.change,
        "collapsed": shown < COLLAPSED * truth.detail,
        "noise": shown > NOISE * truth.detail,
        "turned": float(apart @ np.linalg.solve(covariance, apart)) > TURNED**2,
    }


def long_rollouts(
    runtime: Runtime, split: Split, prompts: int = 24, steps: int = LONG
) -> dict[str, Any]:
    """Shares that end frozen, flickering, collapsed, as noise or in another light; the rest stayed
    drives.

    All actions are the drive's own: a last one that is kept turns a car round on the spot.
    """
    starts = moving_starts(split, PROMPT + steps, prompts)
    true = [split.images(slice(start, start + PROMPT + steps)) for start in starts]
    covariance, ends, details, changes = sky_covariance(true), [], [], []
    about = zip(starts, truths(true), strict=True)
    bar = tqdm(about, desc=f"{steps} frames", unit="rollout", total=len(starts))
    for seed, (start, truth) in enumerate(bar):
        made = rollout(runtime, split, start, steps, seed)
        ends.append(life(made, truth, covariance))
        details.append(detail(made) / truth.detail)
        changes.append(change(made) / truth.change)
    shares = {f"{name}_share": float(np.mean([e[name] for e in ends])) for name in ends[0]}
    return {
        "prompts": len(starts),
        "frames": steps,
        **shares,
        "alive_share": float(np.mean([not any(e.values()) for e in ends])),
        "detail_by_frame": np.mean(details, 0).round(3).tolist(),
        "change_by_frame": np.mean(changes, 0).round(3).tolist(),
        "sky_covariance": covariance.round(3).tolist(),
    }
