"""Is it still a drive? What became of a predicted drive's last frames, held against a true one.

Every limit is one that true drives keep, on the road and beside it
(`python -m tools.true_drive_health`).

Legend: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from train.measures import coarse

FIRST, LAST = 16, 8  # frames of the true drive that tell what it shows; frames that are judged
# Frozen: it changes less than this share of what true drives change (unless its car stands).
# Flickering: no motion explains this much of what it shows, from one frame to the next.
# Collapsed, noise: it shows less, or more, than so many times what the true drive shows.
# Turned: its sky is farther from the drive's than so many times what a drive's own sky differs
# (dusk and night, the nearest of all lights but day and overcast: from 9.3 up).
FROZEN, FLICKERS, COLLAPSED, NOISE, TURNED = 0.2, 0.7, 0.4, 2.0, 9.0
SKY = 0.25  # of a frame's height
BLOCK, REACH = 8, 8  # of `jumps`, in pixels of a coarse frame


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


def jumps(frames_THWC: np.ndarray) -> np.ndarray:
    """What is left of `change` where every block of 32x32 pixels may have come from anywhere
    within 32 pixels of it, (T - 1,): a picture that moves has little, one that flickers has all.
    """
    small = np.stack([coarse(f) for f in frames_THWC]).astype(np.float32)
    _, h, w, _ = small.shape
    block = min(BLOCK, h, w)
    rows, columns = h // block, w // block
    small = small[:, : rows * block, : columns * block]
    before = np.pad(small[:-1], ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)), mode="edge")
    least = np.full((len(small) - 1, rows, columns), np.inf)
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            moved = before[:, y : y + rows * block, x : x + columns * block]
            apart = np.abs(small[1:] - moved).mean(-1)
            of_blocks = apart.reshape(-1, rows, block, columns, block).mean((2, 4))
            least = np.minimum(least, of_blocks)
    return np.asarray(least.mean((1, 2)))


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
    first = [drive[:FIRST] for drive in drives]
    details = [float(detail(x).mean()) for x in first]
    restless = float(np.mean([change(x).mean() / d for x, d in zip(first, details, strict=True)]))
    return [Truth(d, restless * d, sky(x).mean(0)) for x, d in zip(first, details, strict=True)]


def sky_covariance(drives: Sequence[np.ndarray]) -> np.ndarray:
    """How a true drive's sky differs from that of its first frames as the car turns, (3 3).

    By it a day's blue sky is far from dusk and near to its own clouds; the colours alone do not
    tell. One grey level is added: a sky that never changes may be encoded a little otherwise.
    """
    apart = [sky(drive) - sky(drive[:FIRST]).mean(0) for drive in drives]
    differences = np.concatenate(apart)
    return np.asarray(differences.T @ differences / len(differences) + np.eye(3))


class Signs(NamedTuple):
    """Of a drive's last frames."""

    detail: float  # of the true drive's
    change: float  # of true drives'
    jumps: float  # of its own detail
    turn: float  # of the sky, in standard deviations of a true drive's


def signs(made_THWC: np.ndarray, truth: Truth, covariance: np.ndarray) -> Signs:
    """`covariance`: of skies (3 3)."""
    last = made_THWC[-LAST:]
    shown, apart = float(detail(last).mean()), sky(last).mean(0) - truth.sky
    return Signs(
        detail=shown / truth.detail,
        change=float(change(last).mean()) / truth.change,
        jumps=float(jumps(last).mean()) / max(shown, 1e-9),
        turn=float(apart @ np.linalg.solve(covariance, apart)) ** 0.5,
    )


def ends(found: Signs, stands: bool = False) -> dict[str, bool]:
    """What became of it; none of these: it is still a drive. `stands`: so its actions say."""
    return {
        "frozen": found.change < FROZEN and not stands,
        "flickering": found.jumps > FLICKERS,
        "collapsed": found.detail < COLLAPSED,
        "noise": found.detail > NOISE,
        "turned": found.turn > TURNED,
    }
