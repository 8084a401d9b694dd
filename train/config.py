"""Configurations of the three stages: the paper's (`openviga`), the shipped model's (`pocket`), and
the paper's ablations (Tables II-IV).

Losses are means over pixels, codes and samples; weights are the paper's lambdas. Starts of the
adversarial losses are shares of the budget, so that they follow a shorter run or a time budget: the
paper's 20,000 of 200,000 steps are 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sim_stream.errors import InvalidInput

TEACHERS = ("dinov2", "dino")
PRECISIONS = ("bf16", "fp32")
PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of eq. 1, 2 and 4; a weight of 0 switches a loss, and what only it needs, off."""

    l1: float = 0.2
    l2: float = 2.0
    perceptual: float = 1.0
    codebook: float = 1.0
    beta: float = 0.25
    ssl: float = 0.1
    gan: float = 1.0
    # Ours, in the place of the perceptual loss where its network is missing.
    edge: float = 0.0
    texture: float = 0.0
    teacher: str = "dinov2"

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise InvalidInput("losses.teacher", self.teacher, ", ".join(TEACHERS))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Patch discriminator: 4x4 convolutions of stride 2, then two of stride 1 (facts part 6).

    `downs` 5 with `tail_kernel` 3 is the paper's 64 patches at 256 pixels; `downs` 3 with
    `tail_kernel` 4 is Esser et al.'s 30 x 30. Group norms, so that a score does not depend on the
    batch or the number of GPUs. `balance` > 0 sets the generator's weight so that its gradient at
    the last layer is that share of the reconstruction's, instead of the fixed weight.
    """

    width: int = 64
    downs: int = 5
    tail_kernel: int = 3
    norm_groups: int = 32
    generator_from: float = 0.1
    discriminator_from: float = 0.1
    balance: float = 0.0
    lr: float | None = None  # None: the generator's, with its schedule
    betas: tuple[float, float] = (0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters on every linear and embedding layer and both heads; alpha is not in the paper."""

    rank: int = 64
    alpha: int = 64
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """One run. Of the budgets `steps` and `minutes` the one that ends first ends it.

    `batch` counts samples of one step over all ranks and accumulated micro-batches: another number
    of GPUs sees the same data. `decay_steps` None: cosine to the end of the budget.
    """

    out: Path
    steps: int
    minutes: float | None = None
    batch: int
    accumulate: int = 1
    lr: float = 4e-4
    final_lr: float = 8e-6
    warmup_steps: int = 100
    decay_steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    muon: str | None = None
    ema_decay: float | None = None
    clip_norm: float | None = 1.0
    precision: str = "bf16"
    parallel: str = "ddp"
    log_every: int = 25
    save_every: int = 250
    keep: int = 3
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "1 or more")
        if self.minutes is not None and self.minutes <= 0:
            raise InvalidInput("minutes", self.minutes, "above 0")
        if self.precision not in PRECISIONS:
            raise InvalidInput("precision", self.precision, ", ".join(PRECISIONS))
        if self.parallel not in PARALLEL:
            raise InvalidInput("parallel", self.parallel, ", ".join(PARALLEL))


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Stage 1. `plain_share`: part of the budget without quantisation, after which k-means places
    the codebook (0: the codebook comes with the weights); `reseed_every` 0 leaves dead codes.
    `decoder_only`: encoder and codebook, and so all ids, stay as they came."""

    losses: LossConfig = LossConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    plain_share: float = 0.0
    reseed_every: int = 0
    mirror: bool = True
    decoder_only: bool = False

    def __post_init__(self) -> None:
        for name in ("codebook", "ssl") if self.decoder_only else ():
            if getattr(self.losses, name):
                raise InvalidInput(
                    f"losses.{name}", getattr(self.losses, name), "0: codes stay as they are"
                )

    def of_decoder(self) -> TokenizerTraining:
        """The same without all that moves codes."""
        losses = replace(self.losses, codebook=0.0, ssl=0.0)
        return replace(self, plain_share=0.0, reseed_every=0, losses=losses, decoder_only=True)


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining:
    """Stage 2. `frames` is T + N of a training sequence; `lora` None trains every weight.

    `all_image_ids`: the loss counts every image id, the first frame's and the ends of frames too
    (the paper); otherwise only codes of frames that have a frame before them.
    `scheduled_sampling`: the share of sequences whose context is in part the model's own samples
    (not in the paper; costs that share of a forward pass). `token_corruption`: the share of those
    that see a few codes of another drive (nor in the paper).
    """

    frames: int
    lora: LoraConfig | None = None
    all_image_ids: bool = True
    unknown_actions: float = 0.1
    scheduled_sampling: float = 0.0
    token_corruption: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("scheduled_sampling", "token_corruption"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise InvalidInput(name, share, "a share from 0 to 1")

    @property
    def drawn_frames(self) -> int:
        """Frames that a sequence needs: one more where contexts are drawn."""
        return self.frames + bool(self.scheduled_sampling)


@dataclass(frozen=True, kw_only=True)
class VideoDecoderTraining:
    """Stage 3, eq. 8: three frames, tokenizer frozen."""

    losses: LossConfig = LossConfig(codebook=0.0, ssl=0.0)
    discriminator: DiscriminatorConfig = DiscriminatorConfig(
        generator_from=0.02, discriminator_from=0.02
    )


Stage = TokenizerTraining | WorldModelTraining | VideoDecoderTraining


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A stage and how it is trained; `loop` holds LoopConfig's values but `out`."""

    stage: Any
    loop: Mapping[str, Any] = field(default_factory=dict)


POCKET_LOSSES = LossConfig(perceptual=0.0, ssl=0.0, gan=0.0, edge=0.5, texture=0.25)

# Sec. IV-A "Training Details"; "other configurations follow LLaMA-2" for the world model.
RECIPES: Mapping[tuple[str, str], Recipe] = MappingProxyType(
    {
        ("openviga", "tokenizer"): Recipe(
            stage=TokenizerTraining(),
            loop={
                "steps": 200_000,
                "batch": 80,
                "lr": 5e-5,
                "final_lr": 5e-7,
                "warmup_steps": 2_000,
                "decay_steps": 150_000,
                "betas": (0.9, 0.999),
                "save_every": 2_000,
            },
        ),
        ("openviga", "world-model"): Recipe(
            stage=WorldModelTraining(frames=16, lora=LoraConfig(), checkpointing=True),
            loop={
                "steps": 28_300,
                "batch": 24,
                "lr": 6e-4,
                "final_lr": 6e-5,
                "warmup_steps": 250,
                "decay_steps": 15_000,
                "weight_decay": 0.1,
                "save_every": 500,
            },
        ),
        ("openviga", "video-decoder"): Recipe(
            stage=VideoDecoderTraining(),
            loop={
                "steps": 100_000,
                "batch": 48,
                "lr": 5e-5,
                "final_lr": 5e-7,
                "warmup_steps": 100,
                "betas": (0.9, 0.999),
                "save_every": 2_000,
            },
        ),
        ("pocket", "tokenizer"): Recipe(
            stage=TokenizerTraining(losses=POCKET_LOSSES, plain_share=0.15, reseed_every=50),
            loop={"steps": 100_000, "batch": 6, "lr": 8e-4, "final_lr": 1.6e-5, "ema_decay": 0.998},
        ),
        ("pocket", "world-model"): Recipe(
            stage=WorldModelTraining(frames=5, all_image_ids=False, scheduled_sampling=0.5),
            loop={
                "steps": 100_000,
                "batch": 8,
                "lr": 3e-3,
                "final_lr": 6e-5,
                "warmup_steps": 50,
                "weight_decay": 0.05,
                "muon": "model.layers.",
                "ema_decay": 0.998,
            },
        ),
        ("pocket", "video-decoder"): Recipe(
            stage=VideoDecoderTraining(
                losses=replace(POCKET_LOSSES, gan=1.0, codebook=0.0, texture=0.75),
                discriminator=DiscriminatorConfig(
                    width=32,
                    downs=3,
                    norm_groups=8,
                    generator_from=0.35,
                    discriminator_from=0.35,
                    balance=0.3,
                    lr=2e-4,
                ),
            ),
            loop={"steps": 100_000, "batch": 2, "lr": 3e-4, "final_lr": 6e-6, "ema_decay": 0.998},
        ),
    }
)


def get_recipe(preset: str, stage: str) -> Recipe:
    """Raises InvalidInput."""
    if (preset, stage) not in RECIPES:
        known = sorted({name for name, _ in RECIPES})
        raise InvalidInput("preset", preset, ", ".join(known))
    return RECIPES[preset, stage]


ESSER = DiscriminatorConfig(downs=3, tail_kernel=4)  # "D from [19]": 30 x 30 patches
GAIA1 = LossConfig(perceptual=0.1, teacher="dino")  # Table II starts from GAIA-1's weights


def _tokenizer(losses: LossConfig, discriminator: DiscriminatorConfig) -> TokenizerTraining:
    return TokenizerTraining(losses=losses, discriminator=discriminator)


def _weights(perceptual: float, gan: float) -> TokenizerTraining:
    return _tokenizer(replace(GAIA1, perceptual=perceptual, gan=gan), DiscriminatorConfig())


# Table II: one loss left out each. Table III: discriminator and weights. Table IV: teachers.
ABLATIONS: Mapping[str, TokenizerTraining] = MappingProxyType(
    {
        "table2-total": _tokenizer(GAIA1, ESSER),
        "table2-no-ssl": _tokenizer(replace(GAIA1, ssl=0.0), ESSER),
        "table2-no-perceptual": _tokenizer(replace(GAIA1, perceptual=0.0), ESSER),
        "table2-no-l2": _tokenizer(replace(GAIA1, l2=0.0), ESSER),
        "table2-no-gan": _tokenizer(replace(GAIA1, gan=0.0), ESSER),
        "table3-esser-0.1-1.0": _tokenizer(GAIA1, ESSER),
        "table3-0.1-1.0": _weights(0.1, 1.0),
        "table3-0.1-1.5": _weights(0.1, 1.5),
        "table3-0.3-1.0": _weights(0.3, 1.0),
        "table3-0.3-1.2": _weights(0.3, 1.2),
        "table3-1.0-1.0": _weights(1.0, 1.0),
        "table3-2.0-1.0": _weights(2.0, 1.0),
        "table3-2.0-2.0": _weights(2.0, 2.0),
        "table4-no-ssl": TokenizerTraining(losses=LossConfig(ssl=0.0)),
        "table4-dino": TokenizerTraining(losses=LossConfig(teacher="dino")),
        "table4-dinov2": TokenizerTraining(),
    }
)


def get_ablation(name: str) -> TokenizerTraining:
    """Raises InvalidInput."""
    if name not in ABLATIONS:
        raise InvalidInput("ablation", name, ", ".join(ABLATIONS))
    return ABLATIONS[name]
