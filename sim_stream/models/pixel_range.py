"""Which pixel range a VQGAN was trained in, found by reconstructing real frames in both.

In the right range the reconstruction is close; in the wrong one it is about as far off as a frame
of one colour. Nothing else of a checkpoint says it, and a wrong range gives plausible noise.

Legend: T frames, C channels, H height, W width.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.models.vq_model import PIXEL_RANGES, VQModel, from_pixels
from sim_stream.video import read_clip

log = logging.getLogger(__name__)

# The pocket tokenizer on the shipped clip: 32 dB in its range, 15 in the other; one colour a
# frame gives 16, one colour a latent cell 24. A VQGAN of use is above 20.
PLAUSIBLE_DB = 20.0
CLEAR_DB = 3.0  # by which one range must beat the other

Frames = npt.NDArray[np.uint8]
TEST_FRAMES = 2


def first_frames(video: Path, preset: Preset) -> Frames:
    """The first frames of a video, (T H W 3). Raises VideoError."""
    return read_clip(video, start_s=0.0, frames=TEST_FRAMES, size=preset.vq.frame)


@torch.inference_mode()
def psnr_by_range(model: VQModel, frames_THWC: Frames) -> dict[str, float]:
    """Reconstruction PSNR in dB over all frames, the model's range set to each in turn."""
    x_TCHW = from_pixels(torch.from_numpy(np.array(frames_THWC)))
    own, found = model.pixel_range, {}
    for name in PIXEL_RANGES:
        model.pixel_range = name
        y_TCHW = model.decode(model.encode(x_TCHW)).clamp(-1.0, 1.0)
        # [-1, 1] has twice the amplitude of [0, 1].
        error = float(((y_TCHW - x_TCHW) / 2.0).square().mean())
        found[name] = round(-10.0 * float(np.log10(max(error, 1e-10))), 2)
    model.pixel_range = own
    return found


def choose_range(
    model: VQModel, frames_THWC: Frames, demanded: str | None = None
) -> dict[str, float]:
    """Sets `model.pixel_range`, detected or as demanded; gives the PSNR of both ranges.

    Raises InvalidInput (no such range) and CheckpointError: neither range is plausible, they do not
    differ clearly and none was demanded, or the demanded one is not plausible.
    """
    if demanded not in (None, *PIXEL_RANGES):
        raise InvalidInput("pixel_range", demanded, ", ".join(PIXEL_RANGES))
    psnr = psnr_by_range(model, frames_THWC)
    said = ", ".join(f"{name} {db} dB" for name, db in psnr.items())
    best, other = sorted(psnr, key=lambda name: -psnr[name])
    chosen = best if demanded is None else demanded
    if psnr[chosen] < PLAUSIBLE_DB:
        raise CheckpointError(
            f"the VQGAN reconstructs frames at {said}; {PLAUSIBLE_DB:g} dB or more is plausible in "
            f"{'either range' if demanded is None else demanded}: wrong or damaged weights"
        )
    if demanded is None and psnr[best] - psnr[other] < CLEAR_DB:
        raise CheckpointError(
            f"the VQGAN reconstructs frames at {said}, which does not tell its pixel range: say it "
            "with --pixel-range"
        )
    model.pixel_range = chosen
    log.info("pixel range %s (%s)", chosen, said)
    return psnr
