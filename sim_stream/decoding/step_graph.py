"""The world model's step as an ONNX graph, sampler included: ids in, the ids that follow out.

One graph serves any number of ids: the cache goes in and comes out in place through ONNX Runtime's
GroupQueryAttention, which also turns queries and keys. Same arithmetic as `WorldModel` and
`sample`; knows nothing about sessions or how the graph is run.

Legend: B batch, S ids of a pass, R rows that are drawn (the last R of S), D hidden, H heads, K head
dim, T cache capacity, V codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sim_stream.models.world_model import Block, WorldModel

MICROSOFT = "com.microsoft"
OPSET, MICROSOFT_OPSET, IR_VERSION = 17, 1, 9


class GraphWriter:
    """Nodes and weights of a graph in the making; a method call names what it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def weight(self, name: str, value: Tensor) -> str:
        array = value.detach().cpu().contiguous().numpy()
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def node(
        self, kind: str, inputs: Sequence[str], output: str | Sequence[str], **options: Any
    ) -> str:
        """Adds a node; gives the name of its first output."""
        names = [output] if isinstance(output, str) else list(output)
        self.nodes.append(helper.make_node(kind, inputs, names, **options))
        return names[0]

    def model(self, name: str) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def step_graph(model: WorldModel, num_codes: int, capacity: int) -> onnx.ModelProto:
    """`ids` (B S), `noise` (B R V), `last` (B), `total` (), `top_k` (1), `scale` () -> `drawn`
    (B R 1) and `logits` (B R V); `keys.L` and `values.L` (B H T K) of every layer in place.

    `total`: positions in the cache after this pass; `last`: that less one; `scale`: 1/temperature.
    The model must be fused, in fp32.
    """
    config, g = model.config, GraphWriter()
    ids = g.input("ids", TensorProto.INT64, ["B", "S"])
    noise = g.input("noise", TensorProto.FLOAT, ["B", "R", num_codes])
    g.input("last", TensorProto.INT32, ["B"])
    g.input("total", TensorProto.INT32, [])
    g.input("top_k", TensorProto.INT64, [1])
    g.input("scale", TensorProto.FLOAT, [])
    rope, half = model.rope(0, capacity, model.vte.weight.device), config.head_dim // 2
    g.weight("rope.cos", rope.cos_SK[:, :half])
    g.weight("rope.sin", rope.sin_SK[:, half:])

    delta = g.node("Gather", [g.weight("embedding", model.vte.weight), ids], "embedded")
    stream = None
    for index, block in enumerate(model.layers):
        assert isinstance(block, Block)
        stream, delta = _block(g, block, index, stream, delta, config.num_heads, capacity)
    _, hidden = _add_norm(g, model.norm, "norm", stream, delta)

    rows = g.node("Shape", [noise], "noise.rows", start=1, end=2)
    first = g.node("Neg", [rows], "first_row")
    end, axis = (
        g.weight(name, torch.tensor([value])) for name, value in (("end", 2**31 - 1), ("axis", 1))
    )
    drawn_rows = g.node("Slice", [hidden, first, end, axis], "hidden.rows")
    head = g.weight("head", model.vision_head.weight[:num_codes].t())
    logits = g.node("MatMul", [drawn_rows, head], "logits")
    _sample(g, logits, noise)
    g.output("drawn", TensorProto.INT64, ["B", "R", 1])
    g.output("logits", TensorProto.FLOAT, ["B", "R", num_codes])
    return g.model("world_model_step")


def _block(
    g: GraphWriter,
    block: Block,
    index: int,
    stream: str | None,
    delta: str,
    heads: int,
    capacity: int,
) -> tuple[str, str]:
    """The residual stream so far and what is still to be added to it."""
    attention, mlp, name = block.self_attn, block.mlp, f"layers.{index}"
    assert attention.fused_qkv, "the model must be fused"
    stream, h = _add_norm(g, block.input_layernorm, f"{name}.norm1", stream, delta)
    qkv = _linear(g, attention.fused_qkv[0], h, f"{name}.qkv")
    cached = [f"keys.{index}", f"values.{index}"]
    for part in cached:
        shape: list[int | str] = ["B", heads, capacity, attention.head_dim]
        g.input(part, TensorProto.FLOAT, shape)
        g.output(f"{part}.out", TensorProto.FLOAT, shape)
    y = g.node(
        "GroupQueryAttention",
        [qkv, "", "", *cached, "last", "total", "rope.cos", "rope.sin"],
        [f"{name}.attention", *(f"{part}.out" for part in cached)],
        domain=MICROSOFT,
        num_heads=heads,
        kv_num_heads=heads,
        do_rotary=1,
        rotary_interleaved=0,
    )
    delta = _linear(g, attention.o_proj, y, f"{name}.out")
    stream, h = _add_norm(g, block.post_attention_layernorm, f"{name}.norm2", stream, delta)
    gate, up = (
        _linear(g, linear, h, f"{name}.{part}")
        for part, linear in (("gate", mlp.gate_proj), ("up", mlp.up_proj))
    )
    silu = g.node("QuickGelu", [gate], f"{name}.silu", domain=MICROSOFT, alpha=1.0)
    inner = g.node("Mul", [silu, up], f"{name}.inner")
    return stream, _linear(g, mlp.down_proj, inner, f"{name}.down")


def _add_norm(
    g: GraphWriter, norm: torch.nn.RMSNorm, name: str, stream: str | None, delta: str
) -> tuple[str, str]:
    """stream + delta, and its RMS norm in the same node; without a stream delta begins it."""
    weight = g.weight(f"{name}.weight", norm.weight)
    if stream is None:
        normed = g.node(
            "SimplifiedLayerNormalization",
            [delta, weight],
            f"{name}.out",
            axis=-1,
            epsilon=norm.eps,
        )
        return delta, normed
    outputs = [f"{name}.out", "", "", f"{name}.stream"]
    normed = g.node(
        "SkipSimplifiedLayerNormalization",
        [stream, delta, weight],
        outputs,
        domain=MICROSOFT,
        epsilon=norm.eps,
    )
    return outputs[-1], normed


def _linear(g: GraphWriter, linear: torch.nn.Module, x: str, name: str) -> str:
    assert isinstance(linear, torch.nn.Linear), "the model must not be quantised"
    return g.node("MatMul", [x, g.weight(f"{name}.weight", linear.weight.t())], f"{name}.y")


def _sample(g: GraphWriter, logits: str, noise: str) -> None:
    """`sampling.sample`: argmax over the kept codes of logits * scale + noise."""
    g.node("TopK", [logits, "top_k"], ["kept", "kept.ids"], axis=-1, sorted=0)
    scaled = g.node("Mul", ["kept", "scale"], "kept.scaled")
    drawn_noise = g.node("GatherElements", [noise, "kept.ids"], "kept.noise", axis=-1)
    score = g.node("Add", [scaled, drawn_noise], "score")
    winner = g.node("ArgMax", [score], "winner", axis=-1, keepdims=1)
    g.node("GatherElements", ["kept.ids", winner], "drawn", axis=-1)
