"""What to run with, decided once: device, precision, step engine. Never a silent second best.

`auto` is a choice by what is there; anything else that is not there is an error.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from sim_stream.config import KV_PRECISIONS, PRECISIONS, STEP_ENGINES
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.models.world_model import WorldModel

MAX_GRAPH_BYTES = 1 << 31  # what a protocol buffer, and so a graph with its weights, can hold
# Compute capability that the kernels of a quantised world model need.
QUANTIZED_NEEDS = {"fp8": (9, 0), "int4": (8, 0)}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Types of encoder and world model, of the video decoder and of the KV cache; `quantized`: how
    the world model's matrices are, if they are."""

    whole: torch.dtype
    video: torch.dtype
    cache: torch.dtype
    quantized: str | None = None

    @property
    def name(self) -> str:
        names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
        return self.quantized or names[self.whole]


def pick_device(name: str) -> torch.device:
    """`auto` takes a CUDA device where there is one. Raises InvalidInput, Unavailable."""
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidInput("device", name, "auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise Unavailable("device cuda was asked for and this PyTorch sees no CUDA device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pick_precision(name: str, kv_name: str, device: torch.device) -> Precision:
    """Raises as `pick_device`."""
    if name not in PRECISIONS:
        raise InvalidInput("precision", name, ", ".join(PRECISIONS))
    if kv_name not in KV_PRECISIONS:
        raise InvalidInput("kv_precision", kv_name, ", ".join(KV_PRECISIONS))
    native = device.type == "cuda" or multiplies_bf16()
    if name == "bf16" and not native:
        raise Unavailable("precision bf16 was asked for and this CPU has no bf16 multiplication")
    if name in QUANTIZED_NEEDS:
        require_capability(f"precision {name}", QUANTIZED_NEEDS[name], device)
    if kv_name == "fp8":
        require_capability("kv_precision fp8", QUANTIZED_NEEDS["fp8"], device)
    if name == "auto":
        whole = torch.bfloat16 if device.type == "cuda" else torch.float32
        video = torch.bfloat16 if native else torch.float32
    else:
        whole = video = torch.float32 if name == "fp32" else torch.bfloat16
    return Precision(
        whole=whole,
        video=video,
        cache=torch.float8_e4m3fn if kv_name == "fp8" else whole,
        quantized=name if name in QUANTIZED_NEEDS else None,
    )


def require_capability(what: str, needed: tuple[int, int], device: torch.device) -> None:
    """Raises Unavailable where the device is no GPU of that compute capability."""
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if found is None or found < needed:
        here = device.type if found is None else f"a GPU of {found[0]}.{found[1]}"
        raise Unavailable(
            f"{what} was asked for; it needs a GPU of compute capability {needed[0]}.{needed[1]} "
            f"or more, and here is {here}"
        )


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for it; emulated, bf16 is slower than fp32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def pick_step_engine(name: str, model: WorldModel) -> str:
    """What `auto` takes is said at `STEP_ENGINES`. Raises InvalidInput, Unavailable."""
    if name not in STEP_ENGINES:
        raise InvalidInput("step_engine", name, ", ".join(STEP_ENGINES))
    weight = model.norm.weight
    device, dtype = weight.device, weight.dtype
    size = sum(p.nbytes for p in model.parameters())
    small = size < MAX_GRAPH_BYTES
    if name == "onnxruntime" and not (small and device.type == "cpu" and dtype == torch.float32):
        raise Unavailable(
            f"step engine onnxruntime takes fp32 on a CPU below {MAX_GRAPH_BYTES:,} bytes, "
            f"not {size:,} bytes of {dtype} on {device}"
        )
    if name == "compiled" and device.type == "cuda" and not triton_there():
        raise Unavailable("step engine compiled was asked for and Triton is not installed")
    return auto_step_engine(device, dtype, small=small) if name == "auto" else name


def auto_step_engine(device: torch.device, dtype: torch.dtype, *, small: bool) -> str:
    """`small`: the world model fits into an ONNX graph."""
    if device.type == "cuda":
        return "compiled" if triton_there() else "static"
    return "onnxruntime" if small and dtype == torch.float32 else "torch"


def triton_there() -> bool:
    return importlib.util.find_spec("triton") is not None
