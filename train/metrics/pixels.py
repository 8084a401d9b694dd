"""PSNR, SSIM and MS-SSIM of images in [-1, 1], through torchmetrics, on [0, 1].

Legend: N images.
"""

from __future__ import annotations

from torch import Tensor

from sim_stream.errors import Unavailable
from train.measures import MAX_PSNR_DB

MS_SSIM_PIXELS = 161  # five scales of an 11-pixel window


def to_unit(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.float().clamp(-1, 1).add(1).div(2)


def functional() -> object:
    try:
        from torchmetrics.functional import image
    except ImportError as error:
        raise Unavailable("metrics need torchmetrics: pip install 'sim-stream[train]'") from error
    return image


def psnr(y_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """dB of each image, (N,), at most MAX_PSNR_DB: equal images have none."""
    image = functional()
    found: Tensor = image.peak_signal_noise_ratio(  # type: ignore[attr-defined]
        to_unit(y_NCHW), to_unit(x_NCHW), data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    return found.clamp(max=MAX_PSNR_DB)


def ssim(y_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Gaussian window of 11 pixels, sigma 1.5, of each image, (N,)."""
    image = functional()
    return image.structural_similarity_index_measure(  # type: ignore[attr-defined]
        to_unit(y_NCHW), to_unit(x_NCHW), data_range=1.0, reduction="none"
    )


def ms_ssim(y_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Five scales with Wang et al.'s weights, of each image, (N,)."""
    image = functional()
    return image.multiscale_structural_similarity_index_measure(  # type: ignore[attr-defined]
        to_unit(y_NCHW), to_unit(x_NCHW), data_range=1.0, reduction="none"
    )
