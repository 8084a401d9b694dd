"""Small configurations of the real models, for tests that need them whole but fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sim_stream.config import (
    OPENVIGA,
    POCKET,
    FrameSize,
    Preset,
    SessionConfig,
    VideoDecoderConfig,
    VQConfig,
)
from sim_stream.models import checkpoints
from sim_stream.models.lora import Adapter
from sim_stream.models.video_decoder import VideoDecoder, inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.models.world_model import WorldModel
from sim_stream.pipelines.tokens.runtime import Runtime

SMALL_VQ = VQConfig(
    block_out_channels=(8, 16, 16),
    layers_per_block=1,
    latent_channels=4,
    num_vq_embeddings=32,
    norm_num_groups=4,
    frame=FrameSize.square(32),
)

SMALL = replace(
    POCKET,
    name="small",
    vq=SMALL_VQ,
    world_model=replace(
        POCKET.world_model,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        vision_vocab_size=256,
    ),
    video_decoder=VideoDecoderConfig(temporal_levels=2),
    sampling=replace(POCKET.sampling, top_k=8),
    session=SessionConfig(context_frames=4, anchor_frames=2),
)


def random_vq(config: VQConfig = SMALL_VQ, seed: int = 0) -> VQModel:
    """Weights of a scale at which ids and pixels vary."""
    torch.manual_seed(seed)
    model = VQModel(config)
    nn.init.normal_(model.quantize.embedding.weight, std=0.5)
    return model.eval()


def random_world_model(preset: Preset = SMALL, seed: int = 0) -> WorldModel:
    torch.manual_seed(seed)
    model = WorldModel(preset.world_model)
    model.init_weights(std=0.2)
    return model.eval()


def with_adapter(model: WorldModel, adapter: Adapter) -> WorldModel:
    """The model with the adapter merged into its weights, as a server loads it."""
    base = model.state_dict()
    shapes = {key: tuple(weight.shape) for key, weight in base.items()}
    model.load_state_dict(dict(adapter.merged(iter(base.items()), shapes)))
    return model


def random_video_decoder(preset: Preset = SMALL, seed: int = 0) -> VideoDecoder:
    """Inflated, then moved off the initialisation so that neighbours matter."""
    model = inflate(random_vq(preset.vq, seed), preset.video_decoder)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 5:
                weight.add_(torch.randn_like(weight) * 0.05)
    return model.eval()


def random_runtime(preset: Preset = SMALL, seed: int = 0, **options: object) -> Runtime:
    return Runtime(
        preset,
        random_vq(preset.vq, seed),
        random_world_model(preset, seed),
        random_video_decoder(preset, seed),
        **{"max_sessions": 64, **options},  # type: ignore[arg-type]
    )


def save_weights(folder: Path, seed: int = 0, **models: nn.Module) -> Path:
    """A folder of weights of the small preset, random ones but for the models given."""
    parts = {
        "vq_model": random_vq(seed=seed),
        "world_model": random_world_model(),
        "video_decoder": random_video_decoder(seed=seed),
    }
    checkpoints.save(folder, SMALL, {**parts, **models}, {"model_id": folder.name})
    return folder


# The paper's networks at full width, cut to one block a level, one step of downsampling and small
# frames: what its
# engines are made of, at a size for a CPU.
OPENVIGA_CUT = replace(
    OPENVIGA,
    name="openviga-cut",
    prompt="",
    actions_per_frame=2,  # so that no text is needed to start
    vq=replace(
        OPENVIGA.vq,
        block_out_channels=(128, 256),
        layers_per_block=1,
        frame=FrameSize.square(32),
    ),
    world_model=replace(SMALL.world_model, vision_vocab_size=OPENVIGA.vq.num_vq_embeddings + 256),
    video_decoder=VideoDecoderConfig(temporal_levels=2),
    session=SMALL.session,
)
