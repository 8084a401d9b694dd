"""`--dry-run`: a stage built on the meta device and its cost (see `estimate.py`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sim_stream.config import Preset
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from train.config import (
    LoopConfig,
    LossConfig,
    Recipe,
    TokenizerTraining,
    VideoDecoderTraining,
    WorldModelTraining,
)
from train.convnets import vgg16
from train.discriminator import PatchDiscriminator
from train.estimate import (
    UTILISATION,
    Estimate,
    Trace,
    count,
    one_layer_each,
    state_bytes,
    trace,
)
from train.lora import add_adapters
from train.tokenizer import TokenizerNet
from train.video_decoder import FRAMES, VideoDecoderStage
from train.world_model import WorldModelNet, WorldModelStage

TEACHER_WIDTH, TEACHER_PARAMETERS = 384, 22_056_576  # DINOv2 ViT-S/14


def world_model_of(preset: Preset, config: WorldModelTraining) -> WorldModel:
    """On the meta device, with adapters where the configuration has them."""
    with torch.device("meta"):
        model = WorldModel(preset.world_model)
    return add_adapters(model, config.lora) if config.lora else model


def faked(model: WorldModel) -> WorldModel:
    """A model on the meta device with fake tensors in its place; within a FakeTensorMode."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            empty = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
            setattr(module, name, empty)
    return model


def attention_flops(preset: Preset, batch: int, length: int) -> float:
    """Of one layer, which the counter does not see on fake tensors: causal, and 2.5 times as much
    again in the backward pass of flash attention."""
    return 3.5 * 2.0 * batch * length**2 * preset.world_model.hidden_size


def trace_world_model(
    preset: Preset, config: WorldModelTraining, batch: int, prompt_length: int
) -> Trace:
    """Layers cost the same each: traced with one and two, extended to all."""
    layers = preset.world_model.num_layers
    traces = []
    built = [world_model_of(one_layer_each(preset, n), config) for n in (1, 2)]
    # Fake tensors rather than meta ones: they have a device, so autocast works as in the run.
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
        for n in (1, 2):
            model = faked(built[n - 1])
            stage = WorldModelStage(
                model,
                preset,
                replace(config, checkpointing=False),
                None,
                prompt_length=prompt_length,
            )
            length = stage.net.layout.context_length(config.frames)
            ids = torch.zeros(batch, length, dtype=torch.long)

            def run(net: WorldModelNet = stage.net, ids: Tensor = ids) -> Tensor:
                return net.losses(ids, ends=config.all_image_ids).mean()

            traces.append(trace(stage.net, run, positions=length - 1))
    block = traces[1].plus(traces[0], -1.0)
    block = replace(block, flops=block.flops + attention_flops(preset, batch, length))
    rest = traces[0].plus(block, -1.0)
    forward = 1.0 / (2.0 if config.lora else 3.0)
    if not config.checkpointing:
        whole = rest.plus(block, layers)
        return replace(whole, flops=whole.flops * (1.0 + config.scheduled_sampling * forward))
    # Each layer keeps its fp32 input; one layer at a time is computed again.
    inputs = 4.0 * batch * length * preset.world_model.hidden_size
    again = block.flops * forward
    once = rest.flops + layers * block.flops
    return Trace(
        kept_bytes=rest.kept_bytes + block.kept_bytes + layers * inputs,
        flops=once + layers * again + config.scheduled_sampling * forward * once,
    )


def networks(losses: LossConfig) -> list[nn.Module]:
    """Frozen networks of the losses that work on pixels."""
    return [vgg16()] if losses.perceptual else []


def trace_frames(
    model: nn.Module,
    discriminator: nn.Module | None,
    preset: Preset,
    losses: LossConfig,
    micro: int,
    *,
    clips: bool,
) -> Trace:
    """A decoder's step: itself, the perceptual network, the discriminator (three times)."""
    size, frames = preset.vq.frame, micro * (FRAMES if clips else 1)
    feature_networks = networks(losses)

    def run() -> Tensor:
        if clips:
            ids = torch.zeros(micro, FRAMES, preset.vq.codes_per_frame, dtype=torch.long)
            y = model(ids).flatten(0, 1)
        else:
            y = model(torch.zeros(frames, 3, size.height, size.width), losses.beta)[0]
        value = y.float().square().mean()
        for network in feature_networks:
            value = value + torch.stack([f.float().mean() for f in network(y)]).sum()
        if discriminator is not None:
            x = y.unflatten(0, (-1, FRAMES)).transpose(1, 2) if clips else y
            value = value + sum(discriminator(x).float().mean() for _ in range(3))
        return value

    return trace(model, run)


def plan(
    stage: str,
    preset: Preset,
    recipe: Recipe,
    loop: LoopConfig,
    *,
    ranks: int,
    peak: tuple[str, float],
    prompt_length: int = 0,
) -> Estimate:
    """The estimate of a stage; `peak`: name and FLOP/s of the device."""
    config = recipe.stage
    micro = loop.batch // (ranks * loop.accumulate)
    discriminator: nn.Module | None = None
    extra = 0
    if isinstance(config, WorldModelTraining):
        model: nn.Module = world_model_of(preset, config)
        traced = trace_world_model(preset, config, micro, prompt_length)
    else:
        model, discriminator, traced = _frames_plan(preset, config, micro)
        with torch.device("meta"):
            frozen = networks(config.losses)
        extra = sum(4 * p.numel() for n in frozen for p in n.parameters())
        extra += 4 * TEACHER_PARAMETERS * bool(config.losses.ssl)
    memory: dict[str, float] = dict(state_bytes(model, loop))
    if discriminator is not None:
        memory["discriminator"] = sum(state_bytes(discriminator, loop).values())
    if loop.parallel == "fsdp":
        memory = {name: size / ranks for name, size in memory.items()}
    memory |= {"networks": float(extra), "activations": traced.kept_bytes}
    flops = traced.flops * loop.accumulate
    step_s = flops / (peak[1] * UTILISATION)
    return Estimate(
        stage=stage,
        preset=preset.name,
        **count(model),
        discriminator=sum(p.numel() for p in discriminator.parameters()) if discriminator else 0,
        ranks=ranks,
        batch=loop.batch,
        micro_batch=micro,
        memory_gb={name: round(size / 1e9, 3) for name, size in memory.items()},
        memory_total_gb=round(sum(memory.values()) / 1e9, 3),
        step_tflop=round(flops / 1e12, 3),
        device=peak[0],
        step_s=round(step_s, 4),
        run_hours=round(step_s * loop.steps / 3600, 2),
    )


def _frames_plan(
    preset: Preset, config: TokenizerTraining | VideoDecoderTraining, micro: int
) -> tuple[nn.Module, nn.Module | None, Trace]:
    """(model, discriminator, trace) of a stage on pixels."""
    clips = isinstance(config, VideoDecoderTraining)

    def build() -> tuple[nn.Module, nn.Module | None]:
        game = PatchDiscriminator(config.discriminator, temporal=clips)
        d = game if config.losses.gan else None
        if isinstance(config, VideoDecoderTraining):
            video = VideoDecoder(preset.vq, preset.video_decoder)
            return VideoDecoderStage(video, config, None).decoder, d
        width = TEACHER_WIDTH if config.losses.ssl else None
        return TokenizerNet(VQModel(preset.vq), width, decoder_only=config.decoder_only), d

    with torch.device("meta"):
        model, d = build()
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
        traced = trace_frames(*build(), preset, config.losses, micro, clips=clips)
    return model, d, traced
