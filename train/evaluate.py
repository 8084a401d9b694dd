"""Held-out figures of a preset's weights, on drives whose seeds and maps training never saw.

    reconstruction   PSNR of the tokenizer with image decoder, and with the video decoder
    next frame       teacher-forced context, one sampled frame: is it closer to the true frame than
                     the last true frame is? On frames downsampled by 4 (the grain is noise), where
                     the car moves
    steering         one prompt, turning left and right: does the far scene move the right way?
    rollouts         14 frames against the true drive; 40 frames: do they stay a drive?

Legend: T frames, H height, W width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sim_stream.config import Action
from sim_stream.models.vq_model import from_pixels, to_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from train.data.ego import action_of
from train.data.split import Split
from train.losses import psnr_db
from train.measures import DOWNSAMPLE, coarse, psnr8
from train.metrics.pixels import ssim
from train.rollouts import LONG, PROMPT, long_rollouts, moving_starts, per_horizon
from train.sequences import Draw, Sequences
from train.world_model import WorldModelNet

MOVING_MPS = 2.0
CONTEXT = 3  # true frames before the one that is predicted


@torch.inference_mode()
def reconstruction(runtime: Runtime, split: Split, every: int = 8) -> dict[str, Any]:
    """Mean PSNR in dB, image decoder on single frames and video decoder on middle frames.

    Also by drive: a drive has one light and weather.
    """
    image, video, similar = [], [], []
    by_drive: dict[str, list[float]] = {}
    starts = split.windows(3)[::every]
    for start in tqdm(starts, desc="reconstruction", unit="clip"):
        x = split.pixels(slice(start, start + 3))
        ids = runtime.encoder.encode(x)
        image.append(rounded_psnr(runtime.encoder.decode(ids[1:2]), x[1:2]))
        made = runtime.video_decoder(ids[None], 1)
        video.append(rounded_psnr(made, x[1:2]))
        similar.append(ssim(made, x[1:2]).item())
        by_drive.setdefault(split.drive_at(start).id, []).append(video[-1])
    return {
        "image_decoder_psnr_db": float(np.mean(image)),
        "video_decoder_psnr_db": float(np.mean(video)),
        "video_decoder_ssim": float(np.mean(similar)),
        "frames": len(starts),
        "video_decoder_psnr_db_by_drive": {
            drive: float(np.mean(values)) for drive, values in by_drive.items()
        },
    }


def rounded_psnr(y: Tensor, x: Tensor) -> float:
    """PSNR of what a user gets: uint8 pixels."""
    return psnr_db(from_pixels(to_pixels(y)), x).item()


def next_frame(
    runtime: Runtime, split: Split, count: int = 100, context: int = CONTEXT
) -> dict[str, float]:
    """Sampled next frame against the last frame, both against the true one."""
    moving = moving_windows(split, context)
    picked = moving[np.linspace(0, len(moving) - 1, count).astype(int)]
    session = runtime.open_session(lookahead=0)
    model, copy = [], []
    for seed, start in enumerate(tqdm(picked, desc="next frame", unit="frame")):
        rows = slice(start, start + context)
        actions = [action_of(row) for row in split.actions[rows]]
        session.reset(split.images(rows), seed=seed, actions=actions)
        predicted = session.step(action_of(split.actions[start + context])).image
        truth = coarse(split.images(slice(start + context, start + context + 1))[0])
        model.append(psnr8(coarse(predicted), truth))
        copy.append(
            psnr8(coarse(split.images(slice(start + context - 1, start + context))[0]), truth)
        )
    wins = np.mean(np.array(model) > np.array(copy))
    return {
        "predicted_psnr_db": float(np.mean(model)),
        "last_frame_psnr_db": float(np.mean(copy)),
        "closer_than_last_frame_share": float(wins),
        "frames": count,
    }


def far_shift_px(before_HWC: np.ndarray, after_HWC: np.ndarray, reach: int = 10) -> float:
    """Horizontal motion of sky and horizon between two frames, pixels, positive to the right.

    The shift of the upper 40 % with the largest normalised correlation of horizontal gradients,
    searched on columns averaged by 4 and refined by a parabola. Turning left moves the scene right.
    """
    a, b = (np.diff(coarse(f)[:26].mean(-1), axis=1) for f in (before_HWC, after_HWC))
    scores = []
    for shift in range(-reach, reach + 1):
        left, right = max(shift, 0), a.shape[1] + min(shift, 0)
        x, y = b[:, left:right], a[:, left - shift : right - shift]
        scores.append(float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum() + 1e-9)))
    best = int(np.argmax(scores))
    offset = 0.0
    if 0 < best < 2 * reach:
        low, mid, high = scores[best - 1 : best + 2]
        offset = 0.5 * (low - high) / (low - 2 * mid + high)
    return DOWNSAMPLE * (best - reach + offset)


def moving_windows(split: Split, context: int) -> np.ndarray:
    """Start rows of `context` frames and one more, in which the car is known to move."""
    starts = split.windows(context + 1)
    moving: np.ndarray = starts[split.actions[starts + context, 0] >= MOVING_MPS]
    return moving


def left_out(split: Split) -> dict[str, str]:
    """The figures that these drives cannot give, and why: they look at a car that moves."""
    if len(moving_windows(split, CONTEXT)):
        return {}
    known = int((~np.isnan(split.actions[:, 0])).sum())
    why = f"of {len(split)} frames {known} have a known speed, none at {MOVING_MPS:g} m/s or more"
    return {"next_frame": why, "steering": why}


def true_shift_per_yaw(split: Split, count: int = 200) -> float | None:
    """Pixels that the far scene moves per radian of yaw in the recorded drives (least squares).

    None where they never turn.
    """
    starts = split.windows(2)
    starts = starts[np.abs(split.actions[starts + 1, 1]) < 0.5]
    picked = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    yaw = split.actions[picked + 1, 1] / 4.0
    if not yaw.any():
        return None
    shift = [far_shift_px(*split.images(slice(i, i + 2))) for i in picked]
    return float((yaw * np.array(shift)).sum() / (yaw**2).sum())


def steering(
    runtime: Runtime, split: Split, prompts: int = 8, steps: int = 8, yaw_radps: float = 0.25
) -> dict[str, Any]:
    """Mean far-scene motion in pixels a frame when the same prompt is driven left and right."""
    starts = moving_windows(split, 1)
    picked = starts[np.linspace(0, len(starts) - 1, prompts).astype(int)]
    shifts: dict[str, list[float]] = {"left": [], "straight": [], "right": []}
    session = runtime.open_session(lookahead=0)
    for start in tqdm(picked, desc="steering", unit="prompt"):
        speed = float(split.actions[start + 1, 0])
        for name, sign in (("left", 1), ("straight", 0), ("right", -1)):
            session.reset(
                split.images(slice(start, start + 2)),
                seed=0,
                actions=[action_of(row) for row in split.actions[start : start + 2]],
            )
            action = Action(speed_mps=speed, yaw_rate_radps=sign * yaw_radps)
            images = [session.step(action).image for _ in range(steps)]
            moved = [far_shift_px(a, b) for a, b in pairwise(images)]
            shifts[name].append(float(np.mean(moved)))
    per_yaw = true_shift_per_yaw(split)
    right_way = np.mean(np.array(shifts["left"]) > np.array(shifts["right"]))
    return {
        "yaw_rate_radps": yaw_radps,
        "shift_px_per_frame": {name: float(np.mean(v)) for name, v in shifts.items()},
        "expected_px_per_frame": (
            None if per_yaw is None else per_yaw * yaw_radps / runtime.preset.fps
        ),
        "right_direction_share": float(right_way),
        "prompts": prompts,
    }


def bits_per_code(runtime: Runtime, split: Split, count: int = 40) -> dict[str, float]:
    """Cross-entropy of the world model on held-out codes, against the unigram's."""
    session = runtime.preset.session
    kept = session.sink_frames
    draw = Draw(frames=session.context_frames, batch=1, sink_frames=kept)
    sequences = Sequences(split, runtime.preset, draw)
    net = WorldModelNet(runtime.world_model, sequences.layout, checkpointing=False)
    with torch.inference_mode():
        losses = torch.cat([net.losses(part) for part in sequences.evenly(count).split(4)])
    return {
        "bits_per_code": float(losses[:, 1 + kept :].mean() / np.log(2)),
        **baseline_bits(split, runtime.layout.num_codes),
    }


def baseline_bits(split: Split, num_codes: int) -> dict[str, float]:
    """Bits a code of guesses that know no model; both know this split's own statistics.

    unigram: how often each code occurs. copy-last-frame: the code at the same place of the frame
    before with the share at which that is right, otherwise the unigram.
    """
    ids = np.asarray(split.ids())
    counts = np.bincount(ids.ravel(), minlength=num_codes)
    p = counts / counts.sum()
    starts = split.windows(2)
    before, now = ids[starts].ravel(), ids[starts + 1].ravel()
    same = before == now
    share = float(same.mean())
    copied = share * same + (1.0 - share) * p[now]
    used = p[p > 0]
    return {
        "unigram_bits_per_code": float(-(used * np.log2(used)).sum()),
        "copy_last_frame_bits_per_code": float(-np.log2(copied).mean()),
        "same_as_last_frame_share": share,
        "uniform_bits_per_code": float(np.log2(num_codes)),
        "codes_in_use": int((counts > 0).sum()),
    }


def evaluate(runtime: Runtime, split: Split) -> dict[str, Any]:
    """All held-out figures that these drives can give; `left_out` says which not, and why.

    Raises InvalidInput: drives too short for the longest rollout.
    """
    moving_starts(split, PROMPT + LONG, 1)
    without = left_out(split)
    for name, why in without.items():
        tqdm.write(f"{name} is left out: {why}", file=sys.stderr)
    parts: dict[str, Callable[[Runtime, Split], Any]] = {
        "reconstruction": reconstruction,
        "world_model": bits_per_code,
        "next_frame": next_frame,
        "steering": steering,
        "rollouts": per_horizon,
        "long_rollouts": long_rollouts,
    }
    figures = {name: f(runtime, split) for name, f in parts.items() if name not in without}
    return {**figures, "left_out": without} if without else figures
