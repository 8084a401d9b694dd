"""The world model: LLaMA with text and vision embeddings and heads (LWM; OpenViCA Sec. III-B b).

Module names are Hugging Face Llama's, plus `vte` (vision embedding) and `vision_head`; rotary
embedding rotates halves as Hugging Face does (facts/models.md part 3). One `forward` serves
training (no cache) and decoding (with a `KVCache`). Knows nothing about frames, sampling or noise.

Legend: B batch, S positions of this pass, D hidden, H heads, K head dim, T cached positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sim_stream.config import WorldModelConfig
from sim_stream.models.kv_cache import KVCache, RowWrites, ScatteredWrites, Writes


class Rope(NamedTuple):
    """Tables of one pass: cos and sign-folded sin, fp32, (S K) or, of rows apart, (B 1 S K)."""

    cos_SK: Tensor
    sin_SK: Tensor

    def rotate(self, x_xSK: Tensor) -> Tensor:
        """x cos + rotate_half(x) sin; the minus of rotate_half is folded into `sin`."""
        swapped = x_xSK.roll(x_xSK.shape[-1] // 2, -1)
        return torch.addcmul(x_xSK * self.cos_SK, swapped, self.sin_SK).to(x_xSK.dtype)


def rope_tables(config: WorldModelConfig, positions_S: Tensor) -> Rope:
    """Rotary tables in fp32 for absolute positions."""
    half = config.head_dim // 2
    exponent = torch.arange(half, device=positions_S.device, dtype=torch.float32) / half
    angle = positions_S.float()[:, None] * config.rope_theta**-exponent
    cos, sin = angle.cos(), angle.sin()
    return Rope(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))


class Attention(nn.Module):
    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.o_proj: nn.Module = nn.Linear(d, d, bias=False)
        # In a tuple it is no submodule: a fused model has the same keys.
        self.fused_qkv: tuple[nn.Module, ...] = ()

    def forward(self, x_BSD: Tensor, rope: Rope, cache: Writes | None, layer: int) -> Tensor:
        qkv = self.project(x_BSD)
        (q, k), v = rope.rotate(qkv[:2]), qkv[2]
        if cache is None:
            y_BHSK = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
        else:
            y_BHSK = cache.attend(layer, q, k, v)
        return self.o_proj(y_BHSK.transpose(1, 2).flatten(2))

    def project(self, x_BSD: Tensor) -> Tensor:
        """Queries, keys and values in one tensor, (3 B H S K)."""
        if self.fused_qkv:
            qkv = self.fused_qkv[0](x_BSD)
        else:
            parts = [self.q_proj(x_BSD), self.k_proj(x_BSD), self.v_proj(x_BSD)]
            qkv = torch.cat(parts, -1)
        return qkv.view(*x_BSD.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(d, inner, bias=False)
        self.up_proj = nn.Linear(d, inner, bias=False)
        self.down_proj: nn.Module = nn.Linear(inner, d, bias=False)
        self.fused_gate_up: tuple[nn.Module, ...] = ()

    def forward(self, x_BSD: Tensor) -> Tensor:
        if self.fused_gate_up:
            gate, up = self.fused_gate_up[0](x_BSD).chunk(2, -1)
        else:
            gate, up = self.gate_proj(x_BSD), self.up_proj(x_BSD)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BSD: Tensor, rope: Rope, cache: Writes | None, layer: int) -> Tensor:
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), rope, cache, layer)
        return x_BSD + self.mlp(self.post_attention_layernorm(x_BSD))


class WorldModel(nn.Module):
    """Ids in, hidden states out; `text_logits` and `vision_logits` are the two heads."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.config = config
        self.embed_tokens = nn.Embedding(config.text_vocab_size, d)
        self.vte = nn.Embedding(config.vision_vocab_size, d)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(d, config.rms_norm_eps)
        self.lm_head = nn.Linear(d, config.text_vocab_size, bias=False)
        self.vision_head = nn.Linear(d, config.vision_vocab_size, bias=False)
        self._rope: Rope | None = None

    def init_weights(self, std: float = 0.02) -> None:
        """LLaMA's initialisation, residual projections scaled by depth."""
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = (2 * self.config.num_layers) ** -0.5 if residual else 1.0
                nn.init.normal_(weight, std=std * scale)

    def fuse(self) -> WorldModel:
        """One matrix product for q, k, v and one for gate, up. Same parameters, as views of it."""
        for block in self.layers:
            assert isinstance(block, Block)
            attention, mlp = block.self_attn, block.mlp
            parts = (attention.q_proj, attention.k_proj, attention.v_proj)
            attention.fused_qkv = (fused(*parts),)
            mlp.fused_gate_up = (fused(mlp.gate_proj, mlp.up_proj),)
        return self

    def embed(self, ids_BS: Tensor, vision_BS: Tensor | None = None) -> Tensor:
        """Embeddings (B S D): vision ids where `vision_BS` is true (None: everywhere)."""
        if vision_BS is None:
            return self.vte(ids_BS)
        # Ids of the other modality may be out of range here; 0 stands in for them.
        vision = self.vte(ids_BS.where(vision_BS, 0))
        text = self.embed_tokens(ids_BS.where(~vision_BS, 0))
        return torch.where(vision_BS[..., None], vision, text)

    def forward(
        self, ids_BS: Tensor, vision_BS: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Final-norm hidden states (B S D). With a cache the ids stand at `cache.length` on.

        Raises InvalidInput where they do not fit into the cache.
        """
        new = ids_BS.shape[1]
        start = 0
        if cache is not None:
            cache.check_room(new)
            start = cache.length
        x = self.embed(ids_BS, vision_BS)
        rope = self.rope(start, new, x.device)
        for layer, block in enumerate(self.layers):
            x = block(x, rope, cache, layer)
        if cache is not None:
            cache.advance(new)
        return self.norm(x)

    def forward_at(self, ids_BS: Tensor, writes: ScatteredWrites | RowWrites, slots: int) -> Tensor:
        """Final-norm hidden states (B S D) of vision ids that stand at `writes.slots`, any of the
        first `slots`; their keys and values go there."""
        x = self.embed(ids_BS)
        tables = self.rope(0, slots, x.device)
        rope = Rope(tables.cos_SK[writes.slots], tables.sin_SK[writes.slots])
        for layer, block in enumerate(self.layers):
            x = block(x, rope, writes, layer)
        return self.norm(x)

    def rope(self, start: int, new: int, device: torch.device) -> Rope:
        """Rows of the rotary tables, which grow by doubling and are kept."""
        tables = self._rope
        if tables is None or len(tables.cos_SK) < start + new or tables.cos_SK.device != device:
            size = max(2048, 1 << (start + new - 1).bit_length())
            self._rope = tables = rope_tables(self.config, torch.arange(size, device=device))
        return Rope(tables.cos_SK[start : start + new], tables.sin_SK[start : start + new])

    def text_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def vision_logits(self, hidden: Tensor, num_codes: int | None = None) -> Tensor:
        """Vision logits; `num_codes` keeps the codes only, so that no special id can be drawn."""
        return F.linear(hidden, self.vision_head.weight[:num_codes])


def fused(*linears: nn.Linear) -> nn.Linear:
    """All of them as one layer; their own weights become views of its weight."""
    stacked = torch.cat([linear.weight.data for linear in linears])
    parts = torch.split(stacked, [linear.out_features for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    one = nn.Linear(stacked.shape[1], stacked.shape[0], bias=False, device="meta")
    one.weight = nn.Parameter(stacked, requires_grad=False)
    return one
