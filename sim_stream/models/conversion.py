"""Foreign checkpoints -> a weights folder with a manifest that says where every value came from.

All faults are found before the first tensor is read. Tensors pass through one by one into shards;
the folder appears under its name only when it is complete. A VQGAN is tested on real frames.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sim_stream.config import PRESETS, Preset
from sim_stream.errors import CheckpointError, InvalidInput
from sim_stream.files import sha256_of
from sim_stream.models import checkpoints, pixel_range
from sim_stream.models.formats import identify
from sim_stream.models.formats.source import Source, count_dtypes, disagreements, mismatches, refuse
from sim_stream.models.tokenizer import prompt_ids
from sim_stream.models.vq_model import VQModel
from sim_stream.models.weights_manifest import PARTS
from sim_stream.text import one_line
from sim_stream.video import SAMPLE

SHARD_BYTES = 1 << 30


def convert(
    paths: Sequence[Path],
    out: Path,
    *,
    preset: Preset | None = None,
    video: Path = SAMPLE,
    demanded_range: str | None = None,
    model_id: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Writes `out` from sources of one part or several; gives its manifest.

    `preset`: None takes the one that fits. `video`: real frames for the VQGAN's self-test.
    `demanded_range`: its pixel range, None to find it. Raises InvalidInput, CheckpointError,
    Unavailable.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput("out", out, "a folder that is new or empty")
    sources, tokenizer = gather(paths)
    preset = pick_preset(sources) if preset is None else preset
    for part, group in sources.items():
        refuse(f"{preset.name}'s {part}", faults_of(group, preset, part))
    about: dict[str, Any] = {"model_id": model_id or default_id(paths[0])}
    if preset.prompt and "world_model" in sources:
        about |= prompt_of(preset, tokenizer)

    def write(partial: Path, pool: ThreadPoolExecutor) -> dict[str, Any]:
        files: dict[str, dict[str, Any]] = {}
        for part, group in sorted(sources.items(), key=lambda item: PARTS.index(item[0])):
            known_range = files.get("vq_model", {}).get("pixel_range")
            demanded = demanded_range or stated_range(group) or known_range
            hashes = [pool.submit(describe_file, file) for s in group for file in s.files]
            entry = prove_part(part, group, preset, video, demanded)
            entry |= write_part(ShardWriter(partial, part, shard_bytes, pool), group, preset)
            files[part] = entry | {"sources": [file.result() for file in hashes]}
        return checkpoints.write_manifest(partial, preset, files, about)

    return whole_or_nothing(out, write)


def whole_or_nothing(
    out: Path, write: Callable[[Path, ThreadPoolExecutor], dict[str, Any]]
) -> dict[str, Any]:
    """What `write` puts into a folder appears as `out` when it returns, or not at all."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an interrupted run
    partial.mkdir(parents=True)
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        manifest = write(partial, pool)
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return manifest


def default_id(path: Path) -> str:
    """A folder's name, the one that a file lies in too: files are called `params` everywhere."""
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    return one_line(folder.name)[:64] or "unnamed"


def gather(paths: Sequence[Path]) -> tuple[dict[str, list[Source]], Path | None]:
    """Sources by part, and the tokenizer file that was named or lies beside a world model."""
    sources: dict[str, list[Source]] = {}
    tokenizers: list[Path] = []
    beside: list[Path] = []
    for path in (member for named in paths for member in identify.members(named)):
        if identify.kind_of(path) == identify.TOKENIZER:
            tokenizers.append(path)
            continue
        source = identify.source_of(path)
        sources.setdefault(source.part, []).append(source)
        found = identify.tokenizer_beside(path) if source.part == "world_model" else None
        beside += [found] if found else []
    if len(tokenizers) > 1:
        raise InvalidInput("sources", ", ".join(map(str, tokenizers)), "one tokenizer file")
    if not sources:
        raise InvalidInput("sources", ", ".join(map(str, paths)) or "nothing", identify.KNOWN)
    return sources, next(iter((*tokenizers, *beside)), None)


def faults_of(sources: Sequence[Source], preset: Preset, part: str) -> list[str]:
    """All that keeps these sources from being that part of a preset."""
    expected = checkpoints.shapes_of(checkpoints.make_part(preset, part))
    config = preset.vq if part != "world_model" else preset.world_model
    faults = [fault for source in sources for fault in disagreements(source, config)]
    return faults + mismatches(sources, expected)


def pick_preset(sources: Mapping[str, Sequence[Source]]) -> Preset:
    """The preset with the fewest faults; whether there are any is checked where it is used."""

    def faults(preset: Preset) -> int:
        return sum(len(faults_of(group, preset, part)) for part, group in sources.items())

    return min(PRESETS.values(), key=faults)


def stated_range(sources: Sequence[Source]) -> str | None:
    """The pixel range that a format implies (LWM's), to be confirmed by the self-test."""
    stated = [s.facts["pixel_range"] for s in sources if "pixel_range" in s.facts]
    return str(stated[0]) if stated else None


def prove_part(
    part: str, sources: Sequence[Source], preset: Preset, video: Path, demanded: str | None
) -> dict[str, Any]:
    """What a test of the part itself adds to the manifest. Raises CheckpointError.

    A VQGAN must reconstruct real frames; a video decoder has the range of its VQGAN.
    """
    if part == "world_model":
        return {"rope": "halves"}
    if part == "video_decoder":
        return {"pixel_range": demanded or "signed"}
    model = checkpoints.make_part(preset, part)
    assert isinstance(model, VQModel)
    tensors = (pair for source in sources for pair in source.tensors(preset))
    checkpoints.fill(model, tensors, str(sources[0].path))
    psnr_db = pixel_range.choose_range(
        model.eval(), pixel_range.first_frames(video, preset), demanded
    )
    return {"pixel_range": model.pixel_range, "psnr_db": psnr_db}


def prompt_of(preset: Preset, tokenizer: Path | None) -> dict[str, Any]:
    """The prompt's ids for the manifest. Raises InvalidInput where there is no tokenizer."""
    if tokenizer is None:
        raise InvalidInput(
            "sources", "no tokenizer", f"one of {identify.TOKENIZER_FILES} beside the world model"
        )
    file = describe_file(tokenizer)
    ids = prompt_ids(
        tokenizer,
        preset.prompt,
        sha256=file["sha256"],
        vocab_size=preset.world_model.text_vocab_size,
    )
    return {"prompt_ids": list(ids), "tokenizer": file}


def describe_file(path: Path) -> dict[str, Any]:
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }


class ShardWriter:
    """Gathers a part's tensors into files of bounded size, each hashed on a thread."""

    def __init__(self, folder: Path, part: str, shard_bytes: int, pool: ThreadPoolExecutor) -> None:
        self.part = part
        self._folder, self._shard_bytes, self._pool = folder, shard_bytes, pool
        self._pending: dict[str, Tensor] = {}
        self._hashes: dict[str, Future[str]] = {}
        self._bytes = 0

    def add(self, key: str, tensor: Tensor) -> None:
        if self._pending and self._bytes + tensor.nbytes > self._shard_bytes:
            self._flush()
        self._pending[key] = tensor.contiguous()
        self._bytes += tensor.nbytes

    def close(self) -> dict[str, str]:
        """The shards and their hashes."""
        self._flush()
        return {name: sha256.result() for name, sha256 in self._hashes.items()}

    def _flush(self) -> None:
        name = f"{self.part}.{len(self._hashes) + 1:05}.safetensors"
        save_file(self._pending, self._folder / name)
        self._hashes[name] = self._pool.submit(sha256_of, self._folder / name)
        self._pending, self._bytes = {}, 0


def write_part(writer: ShardWriter, sources: Sequence[Source], preset: Preset) -> dict[str, Any]:
    """Shards of one part, tensors in the order they come; its entry of the manifest."""
    written: dict[str, torch.dtype] = {}
    total = sum(source.parameters for source in sources)
    with tqdm(total=total, desc=writer.part, unit="", unit_scale=True, mininterval=0.25) as bar:
        for source in sources:
            for key, tensor in source.tensors(preset):
                writer.add(key, tensor)
                written[key] = tensor.dtype
                bar.update(tensor.numel())
    shards = writer.close()
    announced = {key for source in sources for key in source.shapes}
    if written.keys() != announced:  # a reader that breaks its promise
        raise CheckpointError(f"{writer.part}: {sorted(written.keys() ^ announced)} not written")
    return {
        "sha256": checkpoints.joined_sha256(shards.values()),
        "parameters": total,
        "dtypes": count_dtypes(written.values()),
        "shards": shards,
        "transforms": [text for source in sources for text in source.transforms],
    }
