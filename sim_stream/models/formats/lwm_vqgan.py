"""LWM's ``vqgan``: the VQGAN as a pickled dict of Flax parameters (facts/models.md part 1).

Flax counts modules in the order of their use: ``Conv_0`` is the first convolution and ``Conv_1``
the last, ``UpsamplingBlock_0`` the first that runs. Kernels are HWIO; ours OIHW. Pixels are in
[-1, 1] in LWM's code. The first and the last residual block alone change the number of channels.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sim_stream.config import Preset
from sim_stream.models.formats import array_pickle
from sim_stream.models.formats.source import Source, Tensors, count_dtypes

KIND = "LWM vqgan"
TOP = {"Conv_0": "conv_in", "Conv_1": "conv_out", "GroupNorm_0": "conv_norm_out"}
RESNET = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
}
# What LWM's code says and its file does not: flax's GroupNorm as it is, pixels / 127.5 - 1.
FACTS = {"norm_num_groups": 32, "norm_eps": 1e-6, "pixel_range": "signed"}
VALUES = {"kernel": "weight", "bias": "bias", "scale": "weight"}
BLOCK = re.compile(
    r"(?:(Down|Up)samplingBlock_(\d{1,2})|MidBlock_0)/"
    r"(?:ResnetBlock_(\d{1,2})/(\w+)|(?:Down|Up)sample_0/(Conv_0))"
)


def read(path: Path) -> Source:
    """Raises CheckpointError where the file is no pickle of arrays."""
    arrays = array_pickle.read(path)
    tensors: dict[str, Tensor] = {}
    unknown = []
    for key, w in arrays.items():
        name = our_key(key.removeprefix("params/"))
        if name is None or name in tensors:
            unknown.append(key)
        else:
            tensors[name] = ours(w)

    def stream(preset: Preset) -> Tensors:
        yield from tensors.items()

    return Source(
        kind=KIND,
        part="vq_model",
        path=path,
        files=(path,),
        shapes={key: tuple(w.shape) for key, w in tensors.items()},
        dtypes=count_dtypes(w.dtype for w in arrays.values()),
        stream=stream,
        facts=FACTS,
        transforms=("kernels from HWIO to OIHW",),
        unknown=tuple(unknown),
    )


def ours(w: Tensor) -> Tensor:
    """HWIO -> OIHW; vectors and the codebook as they are."""
    return w.permute(3, 2, 0, 1).contiguous() if w.ndim == 4 else w


def our_key(key: str) -> str | None:
    """diffusers' name of a Flax parameter, None for what is no part of the network."""
    if key == "quantize/embeddings":
        return "quantize.embedding.weight"
    *modules, value = key.split("/")
    if value not in VALUES or not modules:
        return None
    half, inner = modules[0], "/".join(modules[1:])
    if half in ("quant_conv", "post_quant_conv"):
        return None if inner else f"{half}.{VALUES[value]}"
    if half not in ("encoder", "decoder"):
        return None
    module = TOP.get(inner) or _block(inner)
    return None if module is None else f"{half}.{module}.{VALUES[value]}"


def _block(inner: str) -> str | None:
    """'DownsamplingBlock_0/ResnetBlock_1/Conv_0' -> 'down_blocks.0.resnets.1.conv1'."""
    match = BLOCK.fullmatch(inner)
    if match is None:
        return None
    direction, index, resnet, layer, sample = match.groups()
    name = f"{direction.lower()}_blocks.{int(index)}" if direction else "mid_block"
    if resnet is not None:
        return f"{name}.resnets.{int(resnet)}.{RESNET[layer]}" if layer in RESNET else None
    return f"{name}.{direction.lower()}samplers.0.conv" if direction and sample else None
