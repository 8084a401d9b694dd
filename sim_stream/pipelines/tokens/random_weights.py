"""A runtime of any preset with random weights: for profiling a system whose weights are not here.

Shapes, types and memory are the real ones, so times are, too; what comes out is noise. Weights are
made on the device in the type that is used: no copy in another type or place ever exists. Knows
nothing about files.
"""

from __future__ import annotations

import torch
from torch import nn

from sim_stream.config import Preset, get_preset
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.stack import MAX_SESSIONS
from sim_stream.runtime.choices import pick_device, pick_precision

# A stand-in for a prompt's ids, whose tokenizer is not here. With 20 the paper's context of 16
# frames has the 4,132 positions that facts/decoding_and_gpu.md counts with.
PROMPT_IDS = tuple(range(1, 21))
SEED = 0
CODEBOOK_STD = 0.5  # at which ids vary


def random_runtime(
    preset_name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    kv_precision: str = "auto",
    step_engine: str = "auto",
    attention: str = "auto",
    max_sessions: int = MAX_SESSIONS,
    engines: str = "eager",
) -> Runtime:
    """As `Runtime.load`, but for the weights. Raises InvalidInput, Unavailable."""
    preset = get_preset(preset_name)
    where = pick_device(device)
    chosen = pick_precision(precision, kv_precision, where)
    encoder, world_model, video_decoder = meta_models(preset)
    generator = torch.Generator(where).manual_seed(SEED)
    kinds = (chosen.whole, chosen.whole, chosen.video)
    for model, kind in zip((encoder, world_model, video_decoder), kinds, strict=True):
        model.to(kind).to_empty(device=where)
        randomise(model, generator)
    return Runtime(
        preset,
        encoder,
        world_model,
        video_decoder,
        device=where,
        precision=chosen,
        prompt_ids=stand_in_prompt(preset),
        model_id=f"{preset_name}-random",
        step_engine=step_engine,
        attention=attention,
        max_sessions=max_sessions,
        engines=engines,
    )


def stand_in_prompt(preset: Preset) -> tuple[int, ...]:
    """Ids of about the prompt's length; none where there is no prompt."""
    return PROMPT_IDS if preset.prompt else ()


def meta_models(preset: Preset) -> tuple[VQModel, WorldModel, VideoDecoder]:
    """The preset's three models without memory."""
    with torch.device("meta"):
        vq_model, world_model = VQModel(preset.vq), WorldModel(preset.world_model)
        return vq_model, world_model, VideoDecoder(preset.vq, preset.video_decoder)


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Norms that change nothing, kernels and matrices that keep the scale of what passes."""
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        elif "quantize." in name:
            weight.normal_(std=CODEBOOK_STD, generator=generator)
        else:
            fan_in = weight[0].numel()
            weight.normal_(std=fan_in**-0.5, generator=generator)
