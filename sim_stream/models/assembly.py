"""A preset's three models from a weights folder, or from parts that lie in several.

Everything that does not belong together is refused: another configuration, an adapter of another
base, a video decoder of another codebook. A video decoder that is missing can be inflated from the
image decoder, if that is asked for. Knows no sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sim_stream.config import Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.expects import Expects
from sim_stream.models import checkpoints
from sim_stream.models.checkpoints import Loaded
from sim_stream.models.formats import identify, peft_adapter
from sim_stream.models.formats.source import Tensors
from sim_stream.models.lora import Adapter
from sim_stream.models.video_decoder import VideoDecoder, inflate
from sim_stream.models.vq_model import VQModel
from sim_stream.models.weights_manifest import PARTS
from sim_stream.models.world_model import WorldModel

log = logging.getLogger(__name__)

INFLATE = Path("inflate")
# Share of codes that must be nearest to themselves in the other table, for fine-tuned ones too.
SAME_CODES = 0.9


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Weights folders that take the place of `--weights`' parts, and a peft adapter.

    `video_decoder`: a folder, or `inflate`.
    """

    vqgan: Path | None = None
    world_model: Path | None = None
    adapter: Path | None = None
    video_decoder: Path | None = None

    def folder(self, part: str) -> Path | None:
        return {
            "vq_model": self.vqgan,
            "world_model": self.world_model,
            "video_decoder": self.video_decoder,
        }[part]


@dataclass(frozen=True, kw_only=True)
class PartLocation:
    """Where one part lies."""

    folder: Path
    manifest: Mapping[str, Any]

    def sha256(self, part: str) -> str:
        return str(self.manifest["files"][part]["sha256"])


def load(
    preset: Preset,
    weights: Path | str | None,
    parts: Parts,
    *,
    device: torch.device,
    dtypes: Mapping[str, torch.dtype],
) -> Loaded:
    """Raises InvalidInput, CheckpointError."""
    locations = locate(preset, weights, parts)
    adapter = None if parts.adapter is None else peft_adapter.read(parts.adapter)
    models: dict[str, nn.Module] = {}
    for part, location in locations.items():
        adapting = adapter if part == "world_model" else None
        models[part] = checkpoints.load_part(
            *(location.folder, location.manifest, preset, part),
            device=device,
            dtype=dtypes[part],
            tensors=None if adapting is None else merged(location, preset, adapting, device),
        )
    vq_model, world_model = models["vq_model"], models["world_model"]
    assert isinstance(vq_model, VQModel) and isinstance(world_model, WorldModel)
    video_decoder = models.get("video_decoder")
    if video_decoder is None:
        log.warning(
            "NO VIDEO DECODER: it is inflated from the image decoder, untrained in time; frames "
            "will flicker, and each is marked `inflated`"
        )
        video_decoder = inflate(vq_model, preset.video_decoder).to(dtypes["video_decoder"])
    assert isinstance(video_decoder, VideoDecoder)
    check_pair(vq_model, video_decoder)
    return Loaded(
        vq_model=vq_model,
        world_model=world_model,
        video_decoder=video_decoder,
        prompt_ids=tuple(locations["world_model"].manifest.get("prompt_ids", ())),
        model_id=model_id(locations, adapter),
        sha256=weights_sha256(locations, adapter),
        inflated="video_decoder" not in locations,
        expects=expects_of(locations),
    )


def expects_of(locations: Mapping[str, PartLocation]) -> Expects:
    """The tokenizer's manifest knows prompts, the world model's the camera and the actions."""
    said = {
        part: checkpoints.expects_of(location.folder, location.manifest)
        for part, location in locations.items()
        if part in ("vq_model", "world_model")
    }
    world = said["world_model"]
    return replace(said["vq_model"], camera=world.camera, actions=world.actions)


def merged(
    location: PartLocation, preset: Preset, adapter: Adapter, device: torch.device
) -> Tensors:
    """The world model's tensors with the adapter, merged where it is faster: on the device."""
    peft_adapter.check_base(adapter, location.sha256("world_model"))
    shapes = checkpoints.shapes_of(checkpoints.make_part(preset, "world_model"))
    stored = checkpoints.part_tensors(location.folder, "world_model", location.manifest)
    return adapter.merged(((key, w.to(device)) for key, w in stored), shapes)


def locate(preset: Preset, weights: Path | str | None, parts: Parts) -> dict[str, PartLocation]:
    """Where every part lies; no video decoder where it is to be inflated."""
    locations: dict[str, PartLocation] = {}
    for part in PARTS:
        folder = parts.folder(part)
        if part == "video_decoder" and folder == INFLATE:
            continue
        if folder is None:
            folder = _common_folder(preset, weights, part)
        elif identify.kind_of(folder) != identify.WEIGHTS_FOLDER:
            raise InvalidInput(
                part,
                f"{folder} ({identify.kind_of(folder)})",
                f"a weights folder: sim-stream weights convert {folder} --out DIR",
            )
        manifest = checkpoints.read_manifest(folder)
        if part == "video_decoder" and part not in manifest["files"]:
            raise CheckpointError(f"{folder}: holds no video decoder. {_offer()}")
        checkpoints.shards_of(folder, part, manifest)
        checkpoints.check_config(folder, manifest, preset, part)
        locations[part] = PartLocation(folder=folder, manifest=manifest)
    return locations


def _common_folder(preset: Preset, weights: Path | str | None, part: str) -> Path:
    try:
        return checkpoints.weights_dir(preset.name, weights)
    except CheckpointError as error:
        option = {"vq_model": "--vqgan", "world_model": "--world-model"}.get(part)
        hint = f"Or give this part with {option}." if option else _offer()
        raise CheckpointError(f"no {part}: {error}. {hint}") from error


def _offer() -> str:
    return (
        "Give one with --video-decoder DIR, or have it inflated from the image decoder with "
        "--video-decoder inflate: untrained in time, so frames flicker, and each is marked"
    )


def check_pair(vq_model: VQModel, video_decoder: VideoDecoder) -> None:
    """Raises CheckpointError where the decoder's ids or pixels are not the tokenizer's."""
    if vq_model.pixel_range != video_decoder.pixel_range:
        raise CheckpointError(
            f"the video decoder's pixel range is {video_decoder.pixel_range}, the VQGAN's "
            f"{vq_model.pixel_range}"
        )
    theirs = vq_model.quantize.embedding.weight.float()
    nearest = video_decoder.quantize.nearest(theirs)
    own = torch.arange(len(theirs), device=nearest.device)
    same = float((nearest == own).float().mean())
    if same < SAME_CODES:
        raise CheckpointError(
            f"the video decoder's codebook is not the VQGAN's: {same:.0%} of the codes agree, "
            f"{SAME_CODES:.0%} at least belong together"
        )


def model_id(locations: Mapping[str, PartLocation], adapter: Adapter | None) -> str:
    """One folder's own id, or all that went in."""
    names = list(
        dict.fromkeys(str(location.manifest["model_id"]) for location in locations.values())
    )
    names += [] if adapter is None else [adapter.name]
    names += [] if "video_decoder" in locations else ["inflated"]
    return "+".join(names)[:256]


def weights_sha256(locations: Mapping[str, PartLocation], adapter: Adapter | None) -> str:
    """That of a folder with the same parts; an adapter or inflation makes it another one."""
    hashes = [location.sha256(part) for part, location in locations.items()]
    return checkpoints.joined_sha256([*hashes, *([] if adapter is None else [adapter.sha256])])
