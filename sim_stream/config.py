"""Configurations of models, sampling and sessions, and the presets that name them.

Frozen, keyword-only dataclasses; an impossible value is refused at construction. Does not import
torch and knows nothing about files: where weights lie is the manifest's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeVar

from sim_stream.decoding.kind import Grid, StrategyKind
from sim_stream.decoding.strategies import DEFAULTS, STRATEGIES
from sim_stream.errors import InvalidInput

T = TypeVar("T")
# The widest integer that a message takes for a count of codes.
MOST = 2**31 - 1


def require_finite(field: str, value: object) -> float:
    """The number as a float. Raises InvalidInput."""
    try:
        finite = isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        finite = False
    if not finite:
        raise InvalidInput(field, value, "a finite number")
    return float(value)  # type: ignore[arg-type]


def require_integer(field: str, value: object, least: int, most: int, allowed: str) -> int:
    """Raises InvalidInput; ``allowed`` says what the bounds are."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= most:  # type: ignore[operator]
        raise InvalidInput(field, value, allowed)
    return int(value)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, kw_only=True)
class Action:
    """The ego motion that leads to a frame. Yaw rate: positive turns left (ISO 8855)."""

    speed_mps: float
    yaw_rate_radps: float

    def __post_init__(self) -> None:
        for name in ("speed_mps", "yaw_rate_radps"):
            require_finite(f"action.{name}", getattr(self, name))


MAX_SIDE_DIGITS = 7


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """A frame's pixels: ``height`` rows of ``width``."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(f"frame.{name}", value, "1 pixel or more")

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def square(cls, side: int) -> FrameSize:
        return cls(height=side, width=side)

    @classmethod
    def parse(cls, text: str) -> FrameSize:
        """``SIDE`` of a square, or ``HEIGHTxWIDTH``. Raises InvalidInput."""
        height, _, width = text.partition("x")
        width = width or height
        if not all(side.isdecimal() and len(side) < MAX_SIDE_DIGITS for side in (height, width)):
            raise InvalidInput("size", text, "SIDE or HEIGHTxWIDTH, in pixels")
        return cls(height=int(height), width=int(width))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: (H, W, 3)."""
        return self.height, self.width, 3


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """VQGAN tokenizer and image decoder (OpenViCA Sec. III-A; diffusers' ``VQModel`` names)."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    num_vq_embeddings: int
    norm_num_groups: int
    norm_eps: float = 1e-6
    frame: FrameSize = FrameSize(height=256, width=256)

    def __post_init__(self) -> None:
        for channels in self.block_out_channels:
            if channels <= 0 or channels % self.norm_num_groups:
                raise InvalidInput(
                    "block_out_channels", channels, f"multiples of {self.norm_num_groups} groups"
                )
        if self.frame.height % self.downsampling or self.frame.width % self.downsampling:
            raise InvalidInput("frame", self.frame, f"multiples of {self.downsampling} pixels")

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell and side (16 in the paper)."""
        return 1 << (len(self.block_out_channels) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latent cells, one code each."""
        return self.frame.height // self.downsampling, self.frame.width // self.downsampling

    @property
    def codes_per_frame(self) -> int:
        rows, columns = self.grid
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class WorldModelConfig:
    """LLaMA with text and vision embeddings and heads (LWM; facts/models.md part 2)."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    text_vocab_size: int
    vision_vocab_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 5e7

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise InvalidInput(
                "num_heads", self.num_heads, f"even heads that divide hidden {self.hidden_size}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class VideoDecoderConfig:
    """3D decoder made from the 2D one by central inflation (OpenViCA Sec. III-C; MAGVIT).

    ``temporal_levels`` counts the resolution levels, from the latent up, whose 3x3 convolutions
    are inflated to 3x3x3. All levels is the paper's decoder; fewer levels mix frames at low
    resolution only and leave the costly high resolutions to the emitted frame alone.
    """

    temporal_levels: int

    def __post_init__(self) -> None:
        if self.temporal_levels < 1:
            raise InvalidInput("temporal_levels", self.temporal_levels, "1 or more levels")


@dataclass(frozen=True, kw_only=True)
class ActionBins:
    """Bins for speed (uniform) and yaw rate, plus one `unknown` bin each for a null action.

    Ids follow the specials in the vision vocabulary (design.md): first speed bins, speed unknown,
    then yaw bins, yaw unknown. Values beyond the outer bins are clamped into them.
    """

    speed_bins: int = 64
    speed_max_mps: float = 32.0
    yaw_bins: int = 63
    yaw_max_radps: float = 0.8
    straight_bins: int = 3

    def __post_init__(self) -> None:
        if self.straight_bins % 2 == 0 or not 0 < self.straight_bins <= self.yaw_bins:
            allowed = f"an odd number from 1 to the {self.yaw_bins} yaw_bins"
            raise InvalidInput("straight_bins", self.straight_bins, allowed)

    @property
    def total(self) -> int:
        return self.speed_bins + self.yaw_bins + 2

    def speed_bin(self, speed_mps: float) -> int:
        # Clamped first: a speed may be finite and its product with the number of bins not.
        part = min(max(speed_mps / self.speed_max_mps, 0.0), 1.0)
        return round(part * (self.speed_bins - 1))

    def yaw_bin(self, yaw_rate_radps: float) -> int:
        """Square-root spacing: fine around straight driving, coarse in tight turns.

        The `straight_bins` finest are one: the middle one by itself is so narrow that hardly a car
        but a standing one is ever in it, and whoever drives straight on asks for that very bin.
        """
        half = (self.yaw_bins - 1) // 2
        magnitude = half * math.sqrt(min(abs(yaw_rate_radps) / self.yaw_max_radps, 1.0))
        steps = round(magnitude) if magnitude >= self.straight_bins / 2 else 0
        return half + (steps if yaw_rate_radps >= 0 else -steps)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a token is drawn: y = argmax(masked log p / temperature + Gumbel noise)."""

    top_k: int = 1000
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_integer("sampling.top_k", self.top_k, 1, MOST, "an integer, 1 or more")
        if not 0.0 < require_finite("sampling.temperature", self.temperature) <= 10.0:
            raise InvalidInput("sampling.temperature", self.temperature, "above 0, at most 10")


MAX_DIGITS = 9  # of a window; more is no number of codes


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a frame's codes are found: a strategy of ``STRATEGIES``; those that are exact give equal
    frames, others approximations. A strategy looks at its own option alone.

    ``window``: codes that jacobi draws in a pass; ``k``: codes that diagonal keeps between rows.
    """

    strategy: str = next(iter(STRATEGIES))
    window: int = DEFAULTS["window"]
    k: int = DEFAULTS["k"]

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidInput("decoding.strategy", self.strategy, ", ".join(STRATEGIES))
        for name in DEFAULTS:
            value = getattr(self, name)
            require_integer(f"decoding.{name}", value, 1, MOST, "an integer, 1 or more codes")

    @property
    def kind(self) -> StrategyKind:
        return STRATEGIES[self.strategy]

    @classmethod
    def parse(cls, text: str) -> DecodingConfig:
        """A strategy's name, or that and its option's value: ``jacobi``, ``jacobi:16``."""
        strategy, colon, number = text.partition(":")
        if not colon:
            return cls(strategy=strategy)
        option = STRATEGIES[strategy].option if strategy in STRATEGIES else None
        if option is None or not number.isdecimal() or len(number) > MAX_DIGITS:
            usages = ", ".join(kind.usage for kind in STRATEGIES.values())
            raise InvalidInput("decoding", text, usages)
        return cls(strategy=strategy, **{option.name: int(number)})

    def check_fits(self, grid: Grid) -> None:
        """Raises InvalidInput where a frame of that many rows and columns of codes has too few."""
        option = self.kind.option
        if option is not None and getattr(self, option.name) > option.most(grid):
            value, most = getattr(self, option.name), option.most(grid)
            raise InvalidInput(f"decoding.{option.name}", value, f"1..{most}")


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Frames a session keeps: its context, what survives re-anchoring, and the lookahead.

    `sink_frames` of the `anchor_frames` are the drive's first ones, which stay for good: a model
    that was trained so does not forget the light. The others are the newest.
    """

    context_frames: int = 16
    anchor_frames: int = 8
    sink_frames: int = 0
    lookahead: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.anchor_frames < self.context_frames:
            raise InvalidInput(
                "anchor_frames", self.anchor_frames, f"1..{self.context_frames - 1} frames"
            )
        if not 0 <= self.sink_frames < self.anchor_frames:
            raise InvalidInput(
                "sink_frames", self.sink_frames, f"0..{self.anchor_frames - 1} frames"
            )
        if self.lookahead not in (0, 1):
            raise InvalidInput("lookahead", self.lookahead, "0 or 1 frame")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that defines one system: models, prompt, actions, defaults."""

    name: str
    fps: int
    prompt: str
    actions_per_frame: int
    vq: VQConfig
    world_model: WorldModelConfig
    video_decoder: VideoDecoderConfig
    action_bins: ActionBins
    sampling: SamplingConfig
    session: SessionConfig
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        if self.actions_per_frame not in (0, 2):
            raise InvalidInput("actions_per_frame", self.actions_per_frame, "0 or 2")
        if not self.prompt and not self.actions_per_frame:
            raise InvalidInput(
                "prompt", "''", "a text, unless action ids lead every frame to its first code"
            )
        needed = self.vq.num_vq_embeddings + 2
        needed += self.action_bins.total if self.actions_per_frame else 0
        if self.world_model.vision_vocab_size < needed:
            raise InvalidInput(
                "vision_vocab_size",
                self.world_model.vision_vocab_size,
                f"{needed} or more (codes, two specials, action bins)",
            )


# The paper's prompt (OpenViCA Sec. III-A b) as LWM's tokenizer must see it: <vision> in lower case.
PAPER_PROMPT = (
    "You are a helpful assistant. USER: Generate a video of driving vehicles. ASSISTANT: <vision>"
)

OPENVIGA = Preset(
    name="openviga",
    fps=4,
    prompt=PAPER_PROMPT,
    actions_per_frame=0,
    vq=VQConfig(
        block_out_channels=(128, 256, 256, 512, 768),
        layers_per_block=2,
        latent_channels=64,
        num_vq_embeddings=8192,
        norm_num_groups=32,
    ),
    world_model=WorldModelConfig(
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        intermediate_size=11008,
        text_vocab_size=32000,
        vision_vocab_size=8448,
    ),
    video_decoder=VideoDecoderConfig(temporal_levels=5),
    action_bins=ActionBins(),
    sampling=SamplingConfig(top_k=1000),
    session=SessionConfig(context_frames=16, anchor_frames=8),
)

POCKET = Preset(
    name="pocket",
    fps=4,
    prompt="",
    actions_per_frame=2,
    vq=VQConfig(
        block_out_channels=(16, 32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=16,
        num_vq_embeddings=2048,
        norm_num_groups=8,
    ),
    world_model=WorldModelConfig(
        hidden_size=192,
        num_layers=3,
        num_heads=4,
        intermediate_size=512,
        text_vocab_size=8,
        vision_vocab_size=2304,
        rope_theta=1e4,
    ),
    video_decoder=VideoDecoderConfig(temporal_levels=1),
    action_bins=ActionBins(),
    sampling=SamplingConfig(top_k=300, temperature=0.8),
    session=SessionConfig(context_frames=5, anchor_frames=3, sink_frames=1),
)

# What can run the world model's passes. `torch`: the model as it is, the reference of the others.
# `static`: fixed shapes, decoding on the device, a CUDA graph on a GPU; `compiled`: that through
# torch.compile. `onnxruntime`: the step as one graph. `auto` takes onnxruntime for fp32 on a CPU,
# on a GPU compiled where Triton is installed, else static.
STEP_ENGINES = ("auto", "torch", "static", "compiled", "onnxruntime")

# How the static passes attend; models/attention.py says what `auto` takes.
ATTENTIONS = ("auto", "sdpa", "flex", "flash", "plain")

# What PyTorch can run encoder and video decoder as; the alternative is a folder of built engines.
TORCH_ENGINES = ("eager", "compiled", "cuda-graph")

# `auto`: bf16 on a GPU; on a CPU fp32, but the video decoder in bf16 where the CPU multiplies bf16.
# fp8 and int4: the world model's matrices, all else in bf16.
PRECISIONS = ("auto", "fp32", "bf16", "fp8", "int4")

# Of the KV cache; `auto`: as the world model computes.
KV_PRECISIONS = ("auto", "fp8")

PRESETS: Mapping[str, Preset] = MappingProxyType({p.name: p for p in (OPENVIGA, POCKET)})


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises InvalidInput."""
    if name not in PRESETS:
        raise InvalidInput("preset", name, ", ".join(sorted(PRESETS)))
    return PRESETS[name]


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON-ready values."""
    return asdict(config)


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """A configuration from plain values; unknown and missing options are refused by name."""
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidInput(cls.__name__, ", ".join(unknown), ", ".join(sorted(known)))
    converted = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return cls(**converted)
    except TypeError as error:
        raise InvalidInput(cls.__name__, sorted(values), str(error)) from error
