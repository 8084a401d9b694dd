"""Networks of others that losses and metrics need: files that the user supplies, hash-checked.

Nothing is fetched at run time. A file is found in the folder given with --networks (or named by the
environment variable SIM_STREAM_NETWORKS) under its standard name and refused unless its SHA-256 is
the known one. TorchScript files run code: they are opened only after that check.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from sim_stream.errors import CheckpointError, Unavailable
from train.data.manifest import file_sha256

VARIABLE = "SIM_STREAM_NETWORKS"


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """`sha256` may be the beginning of it, as PyTorch's file names have it (8 digits)."""

    name: str
    sha256: str
    purpose: str
    origin: str


FILES: Mapping[str, NetworkFile] = MappingProxyType(
    {
        "vgg16": NetworkFile(
            name="vgg16-397923af.pth",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            purpose="perceptual loss (eq. 3), LPIPS-VGG",
            origin="torchvision's VGG16, ImageNet",
        ),
        "alexnet": NetworkFile(
            name="alexnet-owt-7be5be79.pth",
            sha256="7be5be79",
            purpose="LPIPS",
            origin="torchvision's AlexNet, ImageNet",
        ),
        "inception": NetworkFile(
            name="pt_inception-2015-12-05-6726825d.pth",
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            purpose="FID",
            origin="pytorch-fid's port of the TensorFlow FID Inception network",
        ),
        "clip": NetworkFile(
            name="ViT-L-14-336px.pt",
            sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
            purpose="CMMD",
            origin="OpenAI's CLIP ViT-L/14 at 336 pixels",
        ),
        "i3d": NetworkFile(
            name="i3d_torchscript.pt",
            sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
            purpose="FVD",
            origin="StyleGAN-V's TorchScript of I3D, Kinetics-400",
        ),
    }
)


def networks_folder(given: Path | None) -> Path | None:
    """The folder of the option, or of the environment variable."""
    named = os.environ.get(VARIABLE)
    return given if given is not None else Path(named) if named else None


def locate(key: str, folder: Path | None) -> Path:
    """The checked file. Raises Unavailable where it is missing, CheckpointError where it is not
    the known one."""
    file = FILES[key]
    if folder is None or not (folder / file.name).is_file():
        where = folder or f"no folder given (--networks or {VARIABLE})"
        raise Unavailable(f"{file.purpose} needs {file.name} ({file.origin}), not found: {where}")
    path = folder / file.name
    found = file_sha256(path)
    if not found.startswith(file.sha256):
        raise CheckpointError(
            f"{path}: SHA-256 is {found}, that of {file.origin} begins with {file.sha256}"
        )
    return path


def read_state(key: str, folder: Path | None) -> dict[str, Any]:
    """A checked file of tensors."""
    state: dict[str, Any] = torch.load(locate(key, folder), map_location="cpu", weights_only=True)
    return state


def read_script(key: str, folder: Path | None) -> torch.jit.ScriptModule:
    """A checked TorchScript network, frozen, in inference mode."""
    module = torch.jit.load(str(locate(key, folder)), map_location="cpu")
    return module.eval().requires_grad_(False)
