"""From ids to the ids that follow, through the cache.

`FullPass` is the model as it is. `OneIdPass` is the same arithmetic for a single id with as few
operations as it takes: at one id a pass a small model spends more time between operations than in
them, and a large one reads each weight once either way. `onnx_pass.OnnxPass` is a third one. All
write the same cache.

Legend: S ids of a pass, R rows that are drawn, D hidden, H heads, K head dim, V codes, T cache
capacity.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.sampling import sample
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.world_model import Block, WorldModel


class Pass(Protocol):
    """What a decoding strategy needs of the model."""

    cache: KVCache

    def draw(self, ids_1S: Tensor, noise_RV: Tensor, sampling: SamplingConfig) -> Tensor:
        """Ids (R,) drawn after each of the last R of `ids_1S`, all of which enter the cache."""
        ...


class FullPass:
    """The model as it is."""

    def __init__(self, model: WorldModel, cache: KVCache, num_codes: int) -> None:
        self.model, self.cache, self.num_codes = model, cache, num_codes

    def logits(self, ids_1S: Tensor, rows: int = 1) -> Tensor:
        """Logits (R V) that follow the last R of `ids_1S`, which enter the cache."""
        hidden_RD = self.model(ids_1S, None, self.cache)[0, -rows:]
        return self.model.vision_logits(hidden_RD, self.num_codes)

    def draw(self, ids_1S: Tensor, noise_RV: Tensor, sampling: SamplingConfig) -> Tensor:
        return sample(self.logits(ids_1S, len(noise_RV)), noise_RV, sampling)


class _Layer(NamedTuple):
    norm1_D: Tensor
    qkv_D3D: Tensor
    kv_2HTK: Tensor
    keys_1HTK: Tensor
    values_1HTK: Tensor
    out_DD: Tensor
    norm2_D: Tensor
    gate_up_DI: Tensor
    down_ID: Tensor


class OneIdPass(FullPass):
    """`FullPass` with a lean path for one id. The model must be fused; its weights are shared."""

    def __init__(self, model: WorldModel, cache: KVCache, num_codes: int) -> None:
        super().__init__(model, cache, num_codes)
        config = model.config
        blocks = [block for block in model.layers if isinstance(block, Block)]
        self._layers = [layer_of(*pair) for pair in zip(blocks, cache.layers, strict=True)]
        self._heads, self._head_dim = config.num_heads, config.head_dim
        self._width, self._eps = (config.hidden_size,), config.rms_norm_eps
        self._cos, self._sin = self._tables()
        self._embedding, self._norm_D = model.vte.weight, model.norm.weight
        self._head_DV = model.vision_head.weight[:num_codes].t()

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Rotary tables (T 3 1 K) for q, k and v at once; v is turned by nothing."""
        cache = self.cache
        rope = self.model.rope(0, cache.capacity, cache.kv_L2BHTK.device)
        one, zero = torch.ones_like(rope.cos_SK), torch.zeros_like(rope.sin_SK)
        cos = torch.stack([rope.cos_SK, rope.cos_SK, one], 1)
        sin = torch.stack([rope.sin_SK, rope.sin_SK, zero], 1)
        return cos[:, :, None].contiguous(), sin[:, :, None].contiguous()

    def logits(self, ids_1S: Tensor, rows: int = 1) -> Tensor:
        if ids_1S.shape[1] > 1:
            return super().logits(ids_1S, rows)
        self.cache.check_room(1)
        position = self.cache.length
        x_1D = F.embedding(ids_1S[0], self._embedding)
        cos, sin = self._cos[position], self._sin[position]
        for layer in self._layers:
            x_1D = self._block(layer, x_1D, cos, sin, position)
        self.cache.advance(1)
        x_1D = F.rms_norm(x_1D, self._width, self._norm_D, self._eps)
        return torch.mm(x_1D, self._head_DV)

    def _block(
        self, layer: _Layer, x_1D: Tensor, cos: Tensor, sin: Tensor, position: int
    ) -> Tensor:
        h_1D = F.rms_norm(x_1D, self._width, layer.norm1_D, self._eps)
        qkv_3HK = torch.mm(h_1D, layer.qkv_D3D).view(3, self._heads, self._head_dim)
        swapped = qkv_3HK.roll(self._head_dim // 2, -1)
        qkv_3HK = torch.addcmul(qkv_3HK * cos, swapped, sin).to(x_1D.dtype)
        layer.kv_2HTK.select(2, position).copy_(qkv_3HK.narrow(0, 1, 2))
        y_1H1K = F.scaled_dot_product_attention(
            qkv_3HK[0].view(1, self._heads, 1, self._head_dim),
            layer.keys_1HTK.narrow(2, 0, position + 1),
            layer.values_1HTK.narrow(2, 0, position + 1),
        )
        x_1D = torch.addmm(x_1D, y_1H1K.view(1, -1), layer.out_DD)
        h_1D = F.rms_norm(x_1D, self._width, layer.norm2_D, self._eps)
        gate, up = torch.mm(h_1D, layer.gate_up_DI).chunk(2, -1)
        return torch.addmm(x_1D, F.silu(gate).mul_(up), layer.down_ID)


def layer_of(block: Block, cached: tuple[Tensor, Tensor, Tensor]) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    assert attention.qkv_weight is not None, "the model must be fused"
    assert mlp.gate_up_weight is not None, "the model must be fused"
    kv, keys, values = cached
    return _Layer(
        norm1_D=block.input_layernorm.weight,
        qkv_D3D=attention.qkv_weight.t(),
        kv_2HTK=kv[:, 0],
        keys_1HTK=keys,
        values_1HTK=values,
        out_DD=attention.o_proj.weight.t(),
        norm2_D=block.post_attention_layernorm.weight,
        gate_up_DI=mlp.gate_up_weight.t(),
        down_ID=mlp.down_proj.weight.t(),
    )
