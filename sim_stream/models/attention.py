"""Attention over a static cache, by interchangeable backends that give the same result.

Every backend takes queries (B H S K), all slots of keys and values (B H T K) and the position of
each query (B S): a query sees the slots up to its position and no other. `plain` is the reference.
Which one runs is decided once, by `pick_attention`.

Legend: B batch, H heads, S queries, T slots, K head dim.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sim_stream.config import ATTENTIONS
from sim_stream.errors import InvalidInput, Unavailable

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def seen(positions_BS: Tensor, slots: int) -> Tensor:
    """(B 1 S T) bool: the slots that a query sees."""
    slots_T = torch.arange(slots, device=positions_BS.device)
    return (slots_T <= positions_BS[..., None])[:, None]


def plain(q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, positions_BS: Tensor) -> Tensor:
    """The definition, in fp32: softmax(q k / sqrt(K)) v over the slots seen."""
    scores_BHST = q_BHSK.float() @ k_BHTK.float().transpose(-1, -2) * q_BHSK.shape[-1] ** -0.5
    hidden = ~seen(positions_BS, k_BHTK.shape[2])
    weights_BHST = scores_BHST.masked_fill(hidden, -torch.inf).softmax(-1)
    return (weights_BHST @ v_BHTK.float()).to(q_BHSK.dtype)


def sdpa(q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, positions_BS: Tensor) -> Tensor:
    """PyTorch's own, which runs everywhere; reads all slots."""
    mask = seen(positions_BS, k_BHTK.shape[2])
    return F.scaled_dot_product_attention(q_BHSK, k_BHTK, v_BHTK, attn_mask=mask)


def flex(q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, positions_BS: Tensor) -> Tensor:
    """FlexAttention; fused inside `torch.compile` alone, where no mask is ever in memory.

    Its kernel for CPUs refuses this mask (torch 2.13); unfused it runs there.
    """
    from torch.nn.attention.flex_attention import flex_attention

    def mask(score: Tensor, b: Tensor, h: Tensor, query: Tensor, slot: Tensor) -> Tensor:
        return torch.where(slot <= positions_BS[b, query], score, -torch.inf)

    attended = flex_attention(q_BHSK, k_BHTK, v_BHTK, score_mod=mask)
    assert isinstance(attended, Tensor)
    return attended


def flash(q_BHSK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, positions_BS: Tensor) -> Tensor:
    """flash-attn's kernel for caches: reads the slots seen alone. fp16 or bf16 on a GPU.

    It takes queries of consecutive positions; its causal mask is bottom-right aligned, so the
    cache's length is the last query's position and one.
    """
    from flash_attn import flash_attn_with_kvcache

    # Slots and heads change places as views: only the last dimension must be contiguous.
    attended_BSHK = flash_attn_with_kvcache(
        q_BHSK.transpose(1, 2),
        k_BHTK.transpose(1, 2),
        v_BHTK.transpose(1, 2),
        cache_seqlens=(positions_BS[:, -1] + 1).int(),
        causal=True,
    )
    return attended_BSHK.transpose(1, 2)


def pick_attention(
    name: str, device: torch.device, dtype: torch.dtype, compiled: bool
) -> tuple[str, Attend]:
    """`auto`: flash-attn where it is installed and fits, else PyTorch's own.

    Raises InvalidInput, Unavailable.
    """
    if name not in ATTENTIONS:
        raise InvalidInput("attention", name, ", ".join(ATTENTIONS))
    half_on_gpu = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    flash_there = half_on_gpu and importlib.util.find_spec("flash_attn") is not None
    if name == "flash" and not flash_there:
        raise Unavailable(
            "attention flash was asked for; it needs the package flash-attn, a CUDA device and "
            f"bf16 or fp16, and here is {dtype} on {device.type}"
        )
    if name == "flex" and not (compiled and device.type == "cuda"):
        raise Unavailable(
            "attention flex was asked for; it needs the step engine compiled and a CUDA device"
        )
    if name == "auto":
        name = "flash" if flash_there else "sdpa"
    backends: dict[str, Attend] = {"sdpa": sdpa, "flex": flex, "flash": flash, "plain": plain}
    return name, backends[name]
