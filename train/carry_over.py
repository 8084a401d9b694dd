"""A world model goes on with another tokenizer's ids.

Trained anew, a tokenizer numbers its codes anew, and a world model that starts from older weights
would have to learn its vocabulary again. Both tokenizers see the same frames, and a code's
embedding and head row become the mean of the old codes' rows, by how often each old code stands
where the new one does.

Legend: n frames, N codes of a frame, K codes of the codebook.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sim_stream.errors import InvalidInput
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from train.data.split import Split
from train.data.tokenize import encode

FRAMES = 512


def counts_of(new_nN: np.ndarray, old_nN: np.ndarray, codes: int) -> Tensor:
    """How often old code j stands where new code i does: (K K) float32."""
    pairs = new_nN.astype(np.int64).ravel() * codes + old_nN.astype(np.int64).ravel()
    return torch.from_numpy(np.bincount(pairs, minlength=codes**2)).float().view(codes, codes)


@torch.no_grad()
def carry_over(model: WorldModel, counts_KK: Tensor) -> None:
    """Codes that were never seen get the mean of all rows."""
    codes = len(counts_KK)
    seen_KK = torch.where(counts_KK.sum(1, keepdim=True) > 0, counts_KK, 1.0)
    share_KK = seen_KK / seen_KK.sum(1, keepdim=True)
    for weight in (model.vte.weight, model.vision_head.weight):
        weight[:codes] = share_KK @ weight[:codes]


def carry_over_from(model: WorldModel, old: VQModel, split: Split, ids: np.ndarray) -> None:
    """`old`: the tokenizer that `model` was trained on; `ids` (n N): the split's, by the new one.

    Raises InvalidInput where the split has ids only.
    """
    if split.frames is None:
        raise InvalidInput(
            "init",
            "weights of another tokenizer than the ids'",
            "weights of the same one, or a cache with frames (made by `data sample`)",
        )
    rows = np.linspace(0, len(split) - 1, min(FRAMES, len(split))).astype(int)
    again = encode(old, split.images(rows), mirrored=False, batch=1)
    carry_over(model, counts_of(ids[rows], again, old.config.num_vq_embeddings))
