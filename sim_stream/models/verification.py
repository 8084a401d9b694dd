"""A weights folder checked again, whole, without loading a part into memory at once.

Hashes, keys, shapes, values, the prompt's ids, the reconstruction of real frames, and that the
video decoder's codebook is the VQGAN's. Knows the weights folder only, no foreign formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim_stream.config import Preset, get_preset
from sim_stream.errors import CheckpointError
from sim_stream.models import checkpoints, pixel_range
from sim_stream.models.assembly import check_pair
from sim_stream.models.formats.source import check_values
from sim_stream.models.tokenizer import BOS, check_known
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.video import SAMPLE


def verify(folder: Path, *, preset: Preset | None = None, video: Path = SAMPLE) -> dict[str, Any]:
    """What was found, for people and programs. Raises CheckpointError at the first fault.

    `preset`: None takes the one that the manifest names. `video`: real frames for the VQGAN.
    """
    manifest = checkpoints.read_manifest(folder)
    preset = get_preset(manifest["preset"]) if preset is None else preset
    report: dict[str, Any] = {"model_id": manifest["model_id"], "preset": preset.name, "parts": {}}
    for part, entry in manifest["files"].items():
        checkpoints.check_config(folder, manifest, preset, part)
        found = check_tensors(folder, part, manifest, preset)
        if entry["parameters"] != found:
            raise CheckpointError(
                f"{folder}: {part} has {found:,} parameters, the manifest says "
                f"{entry['parameters']:,}"
            )
        report["parts"][part] = {
            "sha256": entry["sha256"],
            "parameters": entry["parameters"],
            "shards": len(checkpoints.shards_of(folder, part, manifest)),
        }
    if "world_model" in manifest["files"]:
        check_prompt(folder, manifest, preset)
    if "vq_model" in manifest["files"]:
        report |= check_pictures(folder, manifest, preset, video)
    checkpoints.expects_of(folder, manifest)
    report["expects"] = manifest.get("expects", {})
    report["sha256"] = checkpoints.folder_sha256(manifest)
    return report


def check_tensors(folder: Path, part: str, manifest: Mapping[str, Any], preset: Preset) -> int:
    """Hashes, keys, shapes and values of one part, a tensor at a time; gives its parameters."""
    found = {}
    for key, tensor in checkpoints.part_tensors(folder, part, manifest):
        check_values(tensor, f"{folder}: {part}: {key}")
        found[key] = tensor.to("meta")
    checkpoints.fill(
        checkpoints.make_part(preset, part), found.items(), f"{folder.name}/{part}", device="meta"
    )
    return sum(tensor.numel() for tensor in found.values())


def check_prompt(folder: Path, manifest: Mapping[str, Any], preset: Preset) -> None:
    """The ids fit the prompt: none without one, one BOS, a known tokenizer's are the known ones."""
    ids = manifest.get("prompt_ids", [])
    if bool(ids) != bool(preset.prompt):
        raise CheckpointError(f"{folder}: prompt ids {ids} for the prompt {preset.prompt!r}")
    if ids and (ids[0] != BOS or ids.count(BOS) != 1):
        raise CheckpointError(f"{folder}: prompt ids {ids} do not begin with the only BOS")
    check_known(folder, preset.prompt, ids, manifest.get("tokenizer", {}).get("sha256", ""))


def check_pictures(
    folder: Path, manifest: Mapping[str, Any], preset: Preset, video: Path
) -> dict[str, Any]:
    """The VQGAN's reconstruction in the range that the manifest says, and the decoder's codes."""
    vq_model = checkpoints.load_part(folder, manifest, preset, "vq_model")
    assert isinstance(vq_model, VQModel)
    frames = pixel_range.first_frames(video, preset)
    psnr_db = pixel_range.choose_range(vq_model.eval(), frames, vq_model.pixel_range)
    if "video_decoder" in manifest["files"]:
        video_decoder = checkpoints.load_part(folder, manifest, preset, "video_decoder")
        assert isinstance(video_decoder, VideoDecoder)
        check_pair(vq_model, video_decoder)
    return {"pixel_range": vq_model.pixel_range, "psnr_db": psnr_db}
