"""Small measures on uint8 frames. Knows no models.

Legend: H height, W width.
"""

from __future__ import annotations

import numpy as np

DOWNSAMPLE = 4
# Equal frames have no PSNR; libvmaf ends at 6 dB a bit + 12, too. One pair would decide a mean.
MAX_PSNR_DB = 60.0


def coarse(frame_HWC: np.ndarray) -> np.ndarray:
    """A frame averaged over 4x4 pixels, float64."""
    h, w, _ = frame_HWC.shape
    k = DOWNSAMPLE
    return frame_HWC.reshape(h // k, k, w // k, k, 3).mean((1, 3))


def psnr8(a: np.ndarray, b: np.ndarray) -> float:
    """dB, at most MAX_PSNR_DB."""
    least = 255.0**2 / 10 ** (MAX_PSNR_DB / 10)
    return float(10.0 * np.log10(255.0**2 / max(least, np.mean((a.astype(float) - b) ** 2))))
