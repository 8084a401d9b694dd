"""Small measures on uint8 frames. Knows no models.

Legend: H height, W width.
"""

from __future__ import annotations

import numpy as np

DOWNSAMPLE = 4


def coarse(frame_HWC: np.ndarray) -> np.ndarray:
    """A frame averaged over 4x4 pixels, float64."""
    h, w, _ = frame_HWC.shape
    k = DOWNSAMPLE
    return frame_HWC.reshape(h // k, k, w // k, k, 3).mean((1, 3))


def psnr8(a: np.ndarray, b: np.ndarray) -> float:
    return float(10.0 * np.log10(255.0**2 / np.mean((a.astype(float) - b) ** 2)))
