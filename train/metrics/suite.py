"""All metrics of pairs of true and made videos, as far as their network files are there.

Legend: N videos, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # no name of its stub

from sim_stream.errors import InvalidInput, Unavailable
from train.metrics import pixels
from train.metrics.distances import Moments, cmmd, frechet
from train.metrics.features import EXTRACTORS, FVD_FRAMES, Extractor
from train.metrics.lpips import Lpips

PAIRED = ("PSNR", "SSIM", "MS-SSIM", "LPIPS-alex", "LPIPS-vgg")
SETS = ("FID", "CMMD", "FVD")
NAMES = (*PAIRED, *SETS)


def paired_metric(
    name: str, folder: Path | None, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of (made, true) images (N 3 H W) in [-1, 1]. Raises Unavailable."""
    if name.startswith("LPIPS"):
        return Lpips.load(name.removeprefix("LPIPS-"), folder).to(device)
    pixels.functional()
    return {"PSNR": pixels.psnr, "SSIM": pixels.ssim, "MS-SSIM": pixels.ms_ssim}[name]


@dataclass
class Distance:
    """One set metric: features of the true and of the made, collected batch by batch."""

    name: str
    extract: Extractor
    true: Any = None
    made: Any = None

    def __post_init__(self) -> None:
        fresh = list if self.name == "CMMD" else Moments
        self.true, self.made = fresh(), fresh()

    def add(self, true_NTCHW: Tensor, made_NTCHW: Tensor) -> None:
        for target, x in ((self.true, true_NTCHW), (self.made, made_NTCHW)):
            found = self.extract(x if self.name == "FVD" else x.flatten(0, 1))
            target.append(found.cpu()) if self.name == "CMMD" else target.add(found)

    def samples(self) -> dict[str, Any]:
        """How many vectors there are, and how many a covariance of full rank takes.

        With fewer, a Frechet distance of two samples of one distribution is far above 0: 311 for
        64 vectors of 256 dimensions. CMMD has no such limit, and its bias falls with 1/n.
        """
        if self.name == "CMMD":
            return {"count": sum(map(len, self.made)), "sound_from": None, "too_small": False}
        count, least = min(self.true.count, self.made.count), self.made.dimensions + 1
        return {"count": count, "sound_from": least, "too_small": count < least}

    def value(self) -> float:
        if self.name == "CMMD":
            return cmmd(torch.cat(self.true), torch.cat(self.made))
        return frechet(self.true.gaussian(), self.made.gaussian())


@dataclass
class Suite:
    """`add` pairs of videos, then `result`. `refused`: metric -> why it is not computed."""

    paired: dict[str, Callable[[Tensor, Tensor], Tensor]]
    distances: dict[str, Distance]
    refused: dict[str, str]
    device: torch.device
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, names: tuple[str, ...], folder: Path | None, device: torch.device, frames: int
    ) -> Suite:
        """What can be computed of `names`. Raises InvalidInput for an unknown name."""
        unknown = sorted(set(names) - set(NAMES))
        if unknown:
            raise InvalidInput("metrics", ", ".join(unknown), ", ".join(NAMES))
        paired, distances, refused = {}, {}, {}
        for name in names:
            try:
                if name == "FVD" and frames < FVD_FRAMES:
                    raise Unavailable(f"FVD needs {FVD_FRAMES} frames or more, not {frames}")
                if name in PAIRED:
                    paired[name] = paired_metric(name, folder, device)
                else:
                    distances[name] = Distance(name, EXTRACTORS[name](folder, device))
            except Unavailable as error:
                refused[name] = str(error)
        return cls(paired, distances, refused, device)

    @torch.no_grad()
    def add(self, true_NTCHW: Tensor, made_NTCHW: Tensor) -> None:
        true, made = true_NTCHW.to(self.device), made_NTCHW.to(self.device)
        n, t = true.shape[:2]
        for name, metric in self.paired.items():
            found = metric(made.flatten(0, 1), true.flatten(0, 1)).view(n, t)
            self.values.setdefault(name, []).append(found.cpu())
        for distance in self.distances.values():
            distance.add(true, made)

    def result(self) -> dict[str, Any]:
        """{metric: value}, {horizon curves: metric: [value of frame 1, ...]}, what was refused.

        `samples`: of each distance. One that cannot be computed is refused; the others stay.
        """
        means = {name: torch.cat(parts) for name, parts in self.values.items()}
        found, refused = {}, dict(self.refused)
        for name, distance in self.distances.items():
            try:
                found[name] = distance.value()
            except (InvalidInput, LinAlgError) as error:
                refused[name] = str(error)
        return {
            **{name: float(v.mean()) for name, v in means.items()},
            **found,
            "samples": {name: self.distances[name].samples() for name in found},
            "per_horizon": {name: v.mean(0).tolist() for name, v in means.items()},
            "refused": refused,
        }
