"""The FID Inception network: Inception v3 as TensorFlow's FID graph has it (2015-12-05).

Names are torchvision's, so that pytorch-fid's file loads. It differs from torchvision's network in
three ways: average pooling leaves padding out of its mean, the last block pools by maximum, and
there are 1,008 classes. Input is resized bilinearly to 299 without antialiasing.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicConv2d(nn.Module):
    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def chain(module: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    for name in names:
        x = getattr(module, name)(x)
    return x


class InceptionA(nn.Module):
    def __init__(self, c_in: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(c_in, 64, 1)
        self.branch5x5_1 = BasicConv2d(c_in, 48, 1)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(c_in, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(c_in, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = chain(self, ("branch5x5_1", "branch5x5_2"), x)
        three = chain(self, [f"branch3x3dbl_{i}" for i in (1, 2, 3)], x)
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(mean_pool(x))], 1)


class InceptionB(nn.Module):
    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(c_in, 384, 3, 2)
        self.branch3x3dbl_1 = BasicConv2d(c_in, 64, 1)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = chain(self, [f"branch3x3dbl_{i}" for i in (1, 2, 3)], x)
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    def __init__(self, c_in: int, c: int) -> None:
        super().__init__()
        wide, tall = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = BasicConv2d(c_in, 192, 1)
        self.branch7x7_1 = BasicConv2d(c_in, c, 1)
        self.branch7x7_2 = BasicConv2d(c, c, **wide)  # type: ignore[arg-type]
        self.branch7x7_3 = BasicConv2d(c, 192, **tall)  # type: ignore[arg-type]
        self.branch7x7dbl_1 = BasicConv2d(c_in, c, 1)
        self.branch7x7dbl_2 = BasicConv2d(c, c, **tall)  # type: ignore[arg-type]
        self.branch7x7dbl_3 = BasicConv2d(c, c, **wide)  # type: ignore[arg-type]
        self.branch7x7dbl_4 = BasicConv2d(c, c, **tall)  # type: ignore[arg-type]
        self.branch7x7dbl_5 = BasicConv2d(c, 192, **wide)  # type: ignore[arg-type]
        self.branch_pool = BasicConv2d(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = chain(self, [f"branch7x7_{i}" for i in (1, 2, 3)], x)
        double = chain(self, [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)], x)
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(mean_pool(x))], 1)


class InceptionD(nn.Module):
    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(c_in, 192, 1)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, 2)
        self.branch7x7x3_1 = BasicConv2d(c_in, 192, 1)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = chain(self, ("branch3x3_1", "branch3x3_2"), x)
        seven = chain(self, [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)], x)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    def __init__(self, c_in: int, *, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = BasicConv2d(c_in, 320, 1)
        self.branch3x3_1 = BasicConv2d(c_in, 384, 1)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = BasicConv2d(c_in, 448, 1)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = BasicConv2d(c_in, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = chain(self, ("branch3x3dbl_1", "branch3x3dbl_2"), x)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pool else mean_pool(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ],
            1,
        )


class FidInception(nn.Module):
    """Pixels (N 3 H W) in [-1, 1] -> pool3 features (N 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            setattr(self, f"Mixed_{name}", InceptionC(768, c))
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, max_pool=False)
        self.Mixed_7c = InceptionE(2048, max_pool=True)
        self.fc = nn.Linear(2048, 1008)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = F.interpolate(x_NCHW, (299, 299), mode="bilinear", align_corners=False)
        x = chain(self, ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), x)
        x = F.max_pool2d(x, 3, 2)
        x = F.max_pool2d(chain(self, ("Conv2d_3b_1x1", "Conv2d_4a_3x3"), x), 3, 2)
        x = chain(self, [f"Mixed_{n}" for n in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")], x)
        x = chain(self, ("Mixed_7a", "Mixed_7b", "Mixed_7c"), x)
        return x.mean((2, 3))
