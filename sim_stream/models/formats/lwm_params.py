"""LWM's ``params``: the world model as tux's stream of Flax parameters (facts/models.md part 3).

Flax kernels are (in, out) and rotary pairs interleaved; ours are (out, in) and halves. Layers come
stacked on axis 0 or 1 (``scan_layers``) or one by one. The stream says neither heads nor rope
theta: those are the preset's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from sim_stream.config import Preset, WorldModelConfig
from sim_stream.errors import CheckpointError
from sim_stream.models.formats import flax_stream
from sim_stream.models.formats.flax_stream import FlaxStream, Stored
from sim_stream.models.formats.source import Shape, Source, Tensors, count_dtypes

KIND = "LWM params"
MAX_LAYERS = 1000
LAYERS = "transformer/h/"
SCANNED = "scan_decoder"
TOP = {
    "transformer/wte/embedding": "embed_tokens.weight",
    "transformer/vte/embedding": "vte.weight",
    "transformer/ln_f/kernel": "norm.weight",
    "lm_head/kernel": "lm_head.weight",
    "vision_head/kernel": "vision_head.weight",
}
LEAVES = {
    "attention/wq/kernel": "self_attn.q_proj.weight",
    "attention/wk/kernel": "self_attn.k_proj.weight",
    "attention/wv/kernel": "self_attn.v_proj.weight",
    "attention/wo/kernel": "self_attn.o_proj.weight",
    "feed_forward/w1/kernel": "mlp.gate_proj.weight",
    "feed_forward/w2/kernel": "mlp.down_proj.weight",
    "feed_forward/w3/kernel": "mlp.up_proj.weight",
    "attention_norm/kernel": "input_layernorm.weight",
    "ffn_norm/kernel": "post_attention_layernorm.weight",
}
ROTARY = ("q_proj.weight", "k_proj.weight")
TRANSFORMS = (
    "kernels transposed from (in, out) to (out, in)",
    "rope of q and k: rows from interleaved pairs to halves",
)


class Piece(NamedTuple):
    """One of our tensors: the whole of a stored one, or its `layer` along `axis`."""

    key: str
    shape: Shape
    layer: int | None = None
    axis: int = 0


def read(path: Path) -> Source:
    """Raises CheckpointError where the file is no such stream."""
    with flax_stream.opened(path) as stream:
        index = stream.index
    axis = stacking_axis(index)
    pieces = {key: pieces_of(key, stored, axis) for key, stored in index.items()}
    shapes: dict[str, Shape] = {}
    unknown = [f"{key} {index[key].shape}" for key, found in pieces.items() if not found]
    for key, found in pieces.items():
        doubled = [piece.key for piece in found if piece.key in shapes]
        unknown += [f"{key}, a second {name}" for name in doubled]
        shapes |= {piece.key: piece.shape for piece in found}
    stacked = any(SCANNED in key for key in index)

    def tensors(preset: Preset) -> Tensors:
        with flax_stream.opened(path) as stream:
            for key, stored in stream.index.items():
                for piece, w in cut(stream, stored, pieces[key]):
                    yield piece.key, transformed(w, piece.key, preset.world_model)
                stream.release(stored)

    return Source(
        kind=KIND,
        part="world_model",
        path=path,
        files=(path,),
        shapes=shapes,
        dtypes=count_dtypes(stored.dtype for stored in index.values()),
        stream=tensors,
        facts={
            "rope": "interleaved",
            "layers": f"stacked on axis {axis}" if stacked else "one by one",
        },
        transforms=((f"layers taken apart on axis {axis}",) if stacked else ()) + TRANSFORMS,
        unknown=tuple(unknown),
    )


def stacking_axis(index: Mapping[str, Stored]) -> int:
    """0 or 1: the axis of the stacked query kernels that is not the hidden size."""
    norm = index.get("transformer/ln_f/kernel") or index.get("params/transformer/ln_f/kernel")
    if norm is None or len(norm.shape) != 1:
        return 0
    hidden = norm.shape[0]
    for key, stored in index.items():
        if key.endswith(f"{SCANNED}/attention/wq/kernel") and len(stored.shape) == 3:
            if stored.shape == (hidden,) * 3:
                raise CheckpointError(f"{key}: as many layers as channels; the axis is not clear")
            return 0 if stored.shape[0] != hidden else 1
    return 0


def pieces_of(key: str, stored: Stored, axis: int) -> list[Piece]:
    """Our tensors in a stored one; none where the key or the number of axes is not LWM's."""
    name, shape = key.removeprefix("params/"), stored.shape
    if name in TOP:
        return [Piece(TOP[name], ours(TOP[name], shape))]
    layer, _, leaf = name.removeprefix(LAYERS).partition("/")
    if not name.startswith(LAYERS) or leaf not in LEAVES:
        return []
    if layer.isascii() and layer.isdecimal():
        prefix = f"layers.{int(layer)}.{LEAVES[leaf]}"
        return [Piece(prefix, ours(prefix, shape))]
    if layer != SCANNED or len(shape) != (2 if "norm" in leaf else 3) or shape[axis] > MAX_LAYERS:
        return []
    rest = shape[:axis] + shape[axis + 1 :]
    keys = [f"layers.{i}.{LEAVES[leaf]}" for i in range(shape[axis])]
    return [Piece(k, ours(k, rest), i, axis) for i, k in enumerate(keys)]


def is_kernel(key: str) -> bool:
    return "norm" not in key and not key.startswith(("embed_tokens", "vte"))


def ours(key: str, shape: Shape) -> Shape:
    """Our shape of a stored one."""
    return shape[::-1] if is_kernel(key) else shape


def cut(stream: FlaxStream, stored: Stored, pieces: list[Piece]) -> Iterator[tuple[Piece, Tensor]]:
    """Copies of the pieces as they are stored; one layer at a time where layers lie on axis 0."""
    total = math.prod(stored.shape)
    if pieces and pieces[0].layer is not None and pieces[0].axis == 0:
        size = total // stored.shape[0]
        for i, piece in enumerate(pieces):
            yield piece, stream.elements(stored, i * size, size).view(stored.shape[1:])
        return
    whole = stream.elements(stored, 0, total).view(stored.shape)
    for piece in pieces:
        yield piece, whole if piece.layer is None else whole.select(piece.axis, piece.layer)


def transformed(w: Tensor, key: str, config: WorldModelConfig) -> Tensor:
    """A stored kernel in our layout and rotary convention."""
    if is_kernel(key):
        w = w.t()
    if key.endswith(ROTARY):
        w = halves(w, config.num_heads)
    return w.contiguous()


def halves(w_OI: Tensor, heads: int) -> Tensor:
    """Rows of q or k from pairs (2i, 2i+1) to halves (i, i + K/2) of each head."""
    return w_OI.view(heads, -1, 2, w_OI.shape[1]).transpose(1, 2).reshape(w_OI.shape)
