"""What a model is and takes, as data: all that server, wire, clients and page know of one.

A model declares a `StreamSpec`: its frames, how a session starts, and typed fields for the inputs
of a session, the inputs of a step and the options of a session. `hello_ok` carries it, and both
sides check what they are given by it, with the one check below. A pipeline that is added adds no
code to wire or clients.

    number   a finite number within bounds (a `clamped` one may lie beyond them), maybe whole
    text     up to `max_chars` characters
    choice   one of a few words
    array    uint8 or float32 of one shape; it travels as a part beside the message

Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from sim_stream.errors import InvalidInput
from sim_stream.expects import MOST_PSNR_DB, CameraPose

AnyArray: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
# What one field takes; None: not given.
Value: TypeAlias = float | str | AnyArray | None
Inputs: TypeAlias = Mapping[str, Value]
Dtype: TypeAlias = Literal["|u1", "<f4"]

NO_INPUTS: Inputs = {}
MAX_FIELDS = 14  # with the prompt frames, the arrays of a message stay within its 16 parts
MAX_TEXT_CHARS = 4096
MAX_RANK = 8
MAX_PROMPT_FRAMES = 256
MAX_FRAMES_PER_STEP = 256
MAX_LOOKAHEAD = 16
MAX_ARRAY_BYTES = 2**31 - 1

Name = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]
Words = Annotated[str, Meta(max_length=256)]
Side = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Field(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One named input. ``doc`` says what it means, in a line."""

    name: Name
    required: bool = False
    doc: Words = ""

    @property
    def allowed(self) -> str:
        """What it takes, for a message."""
        raise NotImplementedError

    def takes(self, value: object) -> bool:
        """Whether a value that was given is allowed."""
        raise NotImplementedError


class NumberField(Field, frozen=True, kw_only=True, tag="number"):
    """A finite number of ``unit``, from ``low`` (``open_low``: above it) to ``high``.

    ``clamped``: beyond the bounds it counts as the nearest one. ``levels``: how many values the
    model tells apart, 0 where it is not known. ``taken``: how it was measured in training, "end"
    (at the frame that the step leads to) or "mean" (over the time since the frame before); ""
    where the weights do not say.
    """

    unit: Annotated[str, Meta(max_length=64)] = ""
    low: float
    high: float
    open_low: bool = False
    integer: bool = False
    clamped: bool = False
    default: float | None = None
    levels: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    taken: Literal["", "end", "mean"] = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise InvalidInput(f"{self.name}.low, high", (self.low, self.high), "finite, ordered")

    @property
    def allowed(self) -> str:
        kind = "an integer" if self.integer else "a finite number"
        unit = f" {self.unit}" if self.unit else ""
        if self.clamped:
            return f"{kind}; {self.low:g}..{self.high:g}{unit}, clamped beyond"
        if self.open_low:
            return f"{kind}, above {self.low:g}, at most {self.high:g}{unit}"
        return f"{kind}, {self.low:g}..{self.high:g}{unit}"

    def takes(self, value: object) -> bool:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            return False
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every float
            return False
        if not math.isfinite(number) or (self.integer and number != math.floor(number)):
            return False
        if self.clamped:
            return True
        return number <= self.high and (number > self.low if self.open_low else number >= self.low)


class TextField(Field, frozen=True, kw_only=True, tag="text"):
    """Free text."""

    max_chars: Annotated[int, Meta(ge=1, le=MAX_TEXT_CHARS)] = MAX_TEXT_CHARS
    default: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | None = None

    @property
    def allowed(self) -> str:
        return f"a text of at most {self.max_chars} characters"

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and len(value) <= self.max_chars


class ChoiceField(Field, frozen=True, kw_only=True, tag="choice"):
    """One of a few words."""

    choices: Annotated[tuple[Words, ...], Meta(min_length=1, max_length=256)]
    default: Words | None = None

    @property
    def allowed(self) -> str:
        return " or ".join(repr(choice) for choice in self.choices)

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and value in self.choices


class ArrayField(Field, frozen=True, kw_only=True, tag="array"):
    """A C-contiguous array of one shape, such as a semantic map [H, W] of class ids.

    ``values``: how many values, from 0 on, an element may take; 0: all. Floats are finite.
    """

    dtype: Dtype
    shape: Annotated[tuple[Side, ...], Meta(min_length=1, max_length=MAX_RANK)]
    values: Annotated[int, Meta(ge=0, le=256)] = 0

    def __post_init__(self) -> None:
        if self.nbytes > MAX_ARRAY_BYTES:
            raise InvalidInput(f"{self.name}.shape", self.shape, f"{MAX_ARRAY_BYTES} bytes at most")

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def allowed(self) -> str:
        below = f", values below {self.values}" if self.values else ""
        return f"{np.dtype(self.dtype).name} {list(self.shape)}{below}"

    def takes(self, value: object) -> bool:
        if not isinstance(value, np.ndarray) or value.dtype.str != self.dtype:
            return False
        if value.shape != self.shape:
            return False
        if self.dtype == "<f4":
            return bool(np.isfinite(value).all())
        return not self.values or int(value.max()) < self.values


AnyField = NumberField | TextField | ChoiceField | ArrayField
Fields = Annotated[tuple[AnyField, ...], Meta(max_length=MAX_FIELDS)]


class StreamSpec(Struct, frozen=True, kw_only=True):
    """A model as its users see it.

    A session starts from ``prompt_frames[0]`` to ``prompt_frames[1]`` frames of ``frame_shape``
    (H, W, 3) and ``session_inputs``; each prompt frame may come with the ``step_inputs`` that led
    to it. A step gives ``frames_per_step`` frames. With a lookahead of n, one of ``lookaheads``
    (the first is the default), frames leave n steps late.

    ``camera``: that of the frames the model was trained on. ``prompt_psnr_min_db``: a prompt whose
    reconstruction is below it is foreign to the model, ``prompt_psnr_own_db``: what its own world
    reaches. None: the weights do not say.
    """

    model_id: Words
    weights_sha256: Annotated[str, Meta(max_length=128)]
    fps_num: Side
    fps_den: Side = 1
    frame_shape: tuple[Side, Side, Literal[3]]
    prompt_frames: tuple[
        Annotated[int, Meta(ge=0, le=MAX_PROMPT_FRAMES)],
        Annotated[int, Meta(ge=0, le=MAX_PROMPT_FRAMES)],
    ]
    frames_per_step: Annotated[int, Meta(ge=1, le=MAX_FRAMES_PER_STEP)] = 1
    lookaheads: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MAX_LOOKAHEAD)], ...],
        Meta(min_length=1, max_length=MAX_LOOKAHEAD + 1),
    ] = (0,)
    session_inputs: Fields = ()
    step_inputs: Fields = ()
    options: Fields = ()
    camera: CameraPose | None = None
    prompt_psnr_min_db: float | None = None
    prompt_psnr_own_db: float | None = None

    def __post_init__(self) -> None:
        low, high = self.prompt_frames
        if low > high:
            raise InvalidInput("spec.prompt_frames", self.prompt_frames, "least, then most")
        for where in ("session_inputs", "step_inputs", "options"):
            names = [field.name for field in getattr(self, where)]
            if len(set(names)) < len(names):
                raise InvalidInput(f"spec.{where}", ", ".join(names), "each name once")
        if arrays_of(self.options):
            raise InvalidInput("spec.options", "an array", "numbers, texts and choices")
        if len(arrays_of(self.session_inputs)) + len(arrays_of(self.step_inputs)) > MAX_FIELDS:
            raise InvalidInput("spec", "more arrays", f"{MAX_FIELDS} of session and step together")
        for name in ("prompt_psnr_min_db", "prompt_psnr_own_db"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= MOST_PSNR_DB:
                raise InvalidInput(f"spec.{name}", value, f"0..{MOST_PSNR_DB:g} dB")

    @property
    def fps(self) -> float:
        return self.fps_num / self.fps_den

    @property
    def period_ns(self) -> int:
        """From one step to the next."""
        return round(1e9 * self.frames_per_step * self.fps_den / self.fps_num)

    @property
    def frame_bytes(self) -> int:
        return math.prod(self.frame_shape)

    @property
    def array_bytes(self) -> int:
        """The most that the arrays of one message take: of a start, of a step, of a reply."""
        step = sum(field.nbytes for field in arrays_of(self.step_inputs))
        start = sum(field.nbytes for field in arrays_of(self.session_inputs))
        start += self.prompt_frames[1] * (self.frame_bytes + step)
        return max(start, step, self.frames_per_step * self.frame_bytes)

    @property
    def defaults(self) -> dict[str, float | str]:
        """The options that a session has which does not choose others."""
        chosen: dict[str, float | str] = {}
        for field in self.options:
            if not isinstance(field, ArrayField) and field.default is not None:
                chosen[field.name] = field.default
        return chosen


def check_values(where: str, fields: Iterable[AnyField], given: Inputs) -> None:
    """Checks values by their fields: unknown, missing, of another kind, shape or range.

    Raises InvalidInput that names ``where.NAME``.
    """
    known = {field.name: field for field in fields}
    for name, value in given.items():
        if name not in known:
            allowed = ", ".join(known) or "nothing: this model takes none"
            raise InvalidInput(f"{where}.{name}", describe(value), allowed)
    for name, field in known.items():
        value = given.get(name)
        if value is None:
            if field.required:
                raise InvalidInput(f"{where}.{name}", "nothing", field.allowed)
        elif not field.takes(value):
            raise InvalidInput(f"{where}.{name}", describe(value), field.allowed)


def check_frames(spec: StreamSpec, frames: object) -> None:
    """Checks prompt frames: uint8 [T, H, W, 3], T within ``prompt_frames``. Raises InvalidInput."""
    low, high = spec.prompt_frames
    height, width, channels = spec.frame_shape
    allowed = f"uint8 [{low}..{high}, {height}, {width}, {channels}]"
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4:
        raise InvalidInput("frames", describe(frames), allowed)
    if frames.shape[1:] != spec.frame_shape or not low <= len(frames) <= high:
        raise InvalidInput("frames", describe(frames), allowed)


def no_frames(spec: StreamSpec) -> npt.NDArray[np.uint8]:
    """A prompt of zero frames."""
    return np.zeros((0, *spec.frame_shape), np.uint8)


def describe(value: Any) -> str:
    """A value in a message: an array by type, shape and range, anything else with its type."""
    if not isinstance(value, np.ndarray):
        text = repr(value)
        return f"{text[:200]} ({type(value).__name__})"
    text = f"{value.dtype.name} {list(value.shape)}"
    if value.dtype == np.uint8 and value.size:
        return f"{text}, values up to {value.max()}"
    if value.dtype == np.float32 and not np.isfinite(value).all():
        return f"{text}, not all finite"
    return text


def arrays_of(fields: Sequence[AnyField]) -> tuple[ArrayField, ...]:
    return tuple(field for field in fields if isinstance(field, ArrayField))
