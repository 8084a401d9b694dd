"""Engines: what turns pixels into ids and windows of ids into pixels, whatever runs it.

An engine takes and gives exactly what a session holds: uint8 pixels and int64 ids on the runtime's
device, any batch up to `max_batch`. Between them nothing is converted. How an engine came to be
(PyTorch, ONNX Runtime, TensorRT) is not known here.

The video decoder needs one engine per form of its window: three frames of which the middle one is
emitted are the stream's steady state; the others are its start, its end, and lookahead 0. A missing
neighbour is no frame of zeros: zero padding enters at every temporal convolution, so a shorter
window is another graph (`VideoDecoder.forward`).

Legend: B batch, T frames of a window, N ids of a frame, H height, W width, C = 3 colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sim_stream.config import VQConfig
from sim_stream.errors import InvalidInput

ENCODER, VIDEO_DECODER = "encoder", "video_decoder"
PARTS = (ENCODER, VIDEO_DECODER)
MAX_BATCH = 8  # sessions that share a call


@dataclass(frozen=True, kw_only=True)
class Form:
    """One part; for the video decoder also its window: how many frames, which one comes out."""

    part: str
    frames: int = 1
    emit: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise InvalidInput("part", self.part, ", ".join(PARTS))

    @property
    def name(self) -> str:
        """Also the stem of its files."""
        return self.part if self.part == ENCODER else f"{self.part}_{self.frames}_{self.emit}"


ENCODE = Form(part=ENCODER)
STEADY = Form(part=VIDEO_DECODER, frames=3, emit=1)
# Every window that a session can ask for, the steady state first.
FORMS = (
    ENCODE,
    STEADY,
    *(
        Form(part=VIDEO_DECODER, frames=frames, emit=emit)
        for frames, emit in ((3, 2), (2, 1), (2, 0), (1, 0))
    ),
)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor of an engine's interface; `shape` without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def interface(vq: VQConfig, form: Form) -> tuple[TensorSpec, TensorSpec]:
    """What an engine of that form takes and gives."""
    pixels = TensorSpec(name="frames", dtype="uint8", shape=vq.frame.shape)
    codes = vq.codes_per_frame
    if form.part == ENCODER:
        return pixels, TensorSpec(name="ids", dtype="int64", shape=(codes,))
    return TensorSpec(name="ids", dtype="int64", shape=(form.frames, codes)), pixels


class Engine(Protocol):
    """One form, ready to run. Any thread may call it."""

    def run(self, x: Tensor) -> Tensor:
        """`x` (B ..) on the runtime's device -> a new tensor (B ..) there; B up to `max_batch`."""
        ...


class EngineSet:
    """The engines of one runtime, one per form."""

    def __init__(
        self, engines: Mapping[Form, Engine], *, description: str, max_batch: int | None = None
    ) -> None:
        """`max_batch` None: any batch. Raises InvalidInput where a form has no engine."""
        missing = [form.name for form in FORMS if form not in engines]
        if missing:
            raise InvalidInput("engines", f"none for {', '.join(missing)}", "one for every form")
        self._engines, self._max_batch = dict(engines), max_batch
        self.description = description

    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 pixels -> ids (B N), int64."""
        return self._run(ENCODE, frames_BHWC)

    def decode_frame(self, ids_BTN: Tensor, emit: int) -> Tensor:
        """Ids of windows of T frames -> uint8 pixels (B H W C) of frame `emit` of each."""
        return self._run(Form(part=VIDEO_DECODER, frames=ids_BTN.shape[1], emit=emit), ids_BTN)

    def _run(self, form: Form, x: Tensor) -> Tensor:
        if form not in self._engines:
            raise InvalidInput("window", form.name, ", ".join(f.name for f in FORMS[1:]))
        engine = self._engines[form]
        if self._max_batch is None or len(x) <= self._max_batch:
            return engine.run(x)
        return torch.cat([engine.run(chunk) for chunk in x.split(self._max_batch)])
