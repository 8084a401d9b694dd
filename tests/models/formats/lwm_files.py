"""LWM's 7B as a file of its real size: every key and shape, values random or left out (holes).

An independent writer of tux's stream: flax's own would need every array in memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import msgpack

from sim_stream.config import WorldModelConfig

Layout = dict[str, tuple[int, ...]]
CHUNK_ELEMENTS = 2**30 // 2  # flax cuts arrays above 2^30 bytes; bf16


def full_layout(config: WorldModelConfig, axis: int | None) -> Layout:
    """Key and shape of every array, layers stacked on an axis or one by one."""
    d, m, n = config.hidden_size, config.intermediate_size, config.num_layers
    layer: Layout = {f"attention/{w}/kernel": (d, d) for w in ("wq", "wk", "wv", "wo")}
    layer |= {f"feed_forward/{w}/kernel": (d, m) for w in ("w1", "w3")}
    layer |= {"feed_forward/w2/kernel": (m, d)}
    layer |= {"attention_norm/kernel": (d,), "ffn_norm/kernel": (d,)}
    if axis is None:
        layers = {f"{i}/{key}": shape for i in range(n) for key, shape in layer.items()}
    else:
        layers = {f"scan_decoder/{k}": (*s[:axis], n, *s[axis:]) for k, s in layer.items()}
    return {
        "transformer/wte/embedding": (config.text_vocab_size, d),
        "transformer/vte/embedding": (config.vision_vocab_size, d),
        **{f"transformer/h/{key}": shape for key, shape in layers.items()},
        "transformer/ln_f/kernel": (d,),
        "lm_head/kernel": (d, config.text_vocab_size),
        "vision_head/kernel": (d, config.vision_vocab_size),
    }


def write_stream(path: Path, layout: Layout, block: bytes | None = None) -> None:
    """A bf16 stream; values are `block` over and over, or holes that take no disk."""
    with path.open("wb") as file:
        for key, shape in layout.items():
            _write_pair(file, key, shape, block)
        file.truncate(file.tell())


def _write_pair(file: IO[bytes], key: str, shape: tuple[int, ...], block: bytes | None) -> None:
    size = math.prod(shape)
    chunks = [min(CHUNK_ELEMENTS, size - i) for i in range(0, size, CHUNK_ELEMENTS)]
    chunked = len(chunks) > 1
    opening = _chunked_opening(shape, len(chunks)) if chunked else b""
    heads = [
        (msgpack.packb(str(i)) if chunked else b"") + _array_head((n,) if chunked else shape, 2 * n)
        for i, n in enumerate(chunks)
    ]
    total = len(opening) + sum(map(len, heads)) + 2 * size
    file.write(b"\x92" + msgpack.packb(tuple(key.split("/"))))
    file.write(b"\xc6" + total.to_bytes(4, "big") + opening)
    for head, n in zip(heads, chunks, strict=True):
        file.write(head)
        _write_values(file, 2 * n, block)


def _write_values(file: IO[bytes], nbytes: int, block: bytes | None) -> None:
    if block is None:
        file.seek(nbytes, 1)
        return
    view = memoryview(block)
    for start in range(0, nbytes, len(block)):
        file.write(view[: min(len(block), nbytes - start)])


def _chunked_opening(shape: tuple[int, ...], chunks: int) -> bytes:
    fields = [("__msgpack_chunked_array__", True), ("shape", dict(_numbered(shape)))]
    opening = b"".join(msgpack.packb(part) for field in fields for part in field)
    return b"\x83" + opening + msgpack.packb("chunks") + bytes([0x80 + chunks])


def _numbered(shape: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(str(i), n) for i, n in enumerate(shape)]


def _array_head(shape: tuple[int, ...], nbytes: int) -> bytes:
    inner = b"\x93" + msgpack.packb(shape) + msgpack.packb("bfloat16")
    inner += b"\xc6" + nbytes.to_bytes(4, "big")
    return b"\xc9" + (len(inner) + nbytes).to_bytes(4, "big") + b"\x01" + inner
