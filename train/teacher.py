"""The teacher of eq. 5: patch tokens of a self-supervised ViT-S, one for every code of a frame.

DINOv2 ViT-S/14 sees the frame at 14 pixels a code, DINO ViT-S/16 at 16: at 16 x 16 codes that is
224 and 256 pixels. The user gives its folder in transformers' format (config.json and
model.safetensors of facebook/dinov2-small or facebook/dino-vits16).

Legend: B batch, N codes, D the teacher's width (384).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sim_stream.errors import CheckpointError, InvalidInput, Unavailable
from train.convnets import normalise

MODEL_TYPES = {"dinov2": "dinov2", "dino": "vit"}


class Teacher(nn.Module):
    """Frozen; pixels (B 3 H W) in [-1, 1] -> tokens (B N D)."""

    def __init__(self, model: nn.Module, patch: int, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        rows, columns = grid
        self.size, self.width = (patch * rows, patch * columns), width
        self.codes = rows * columns

    def train(self, mode: bool = True) -> Teacher:
        """Stays in inference mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = normalise(x_BCHW)
        if x.shape[-2:] != self.size:
            x = F.interpolate(
                x, size=self.size, mode="bicubic", antialias=True, align_corners=False
            )
        tokens = self.model(x, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, -self.codes :].float()


def load_teacher(kind: str, folder: Path | None, grid: tuple[int, int]) -> Teacher:
    """Reads a teacher from a local folder; nothing is fetched.

    Raises Unavailable where folder or package is missing, InvalidInput for another kind of model.
    """
    if folder is None or not (folder / "config.json").is_file():
        raise Unavailable(
            f"the distillation loss (eq. 5) needs the {kind} teacher, not found: "
            f"{folder or '--teacher'}; give the folder of facebook/dinov2-small (or dino-vits16), "
            "or switch the loss off"
        )
    try:
        from transformers import AutoConfig, Dinov2Model, ViTModel
    except ImportError as error:
        raise Unavailable("the teacher needs transformers: pip install 'sim-stream[train]'") from (
            error
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != MODEL_TYPES[kind]:
        raise InvalidInput("teacher", f"{folder} ({config.model_type})", MODEL_TYPES[kind])
    model: nn.Module
    try:
        if kind == "dinov2":
            model = Dinov2Model.from_pretrained(folder, local_files_only=True)
        else:
            model = ViTModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from error
    return Teacher(model, config.patch_size, config.hidden_size, grid)
