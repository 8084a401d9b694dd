"""Graphs: encoder and video decoder as ONNX files, each with a manifest that says what it is.

`export` is resumable: a graph whose manifest already says what would be made, and whose file is
whole, stays. Knows nothing about backends.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import nn
from tqdm import tqdm

from engines.files import staging
from engines.graphs import DTYPES, example_input, graph_module
from sim_stream.config import Preset
from sim_stream.errors import EngineError, InvalidInput
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel
from sim_stream.runtime.engine import FORMS, MAX_BATCH, PARTS, Form, interface
from sim_stream.runtime.engine_manifest import (
    GraphManifest,
    Host,
    config_of,
    files_sha256,
    graph_path,
    read_graph,
    write,
)

OPSET = 22  # the first whose convolutions and norms take bf16
# A protocol buffer holds at most 2 GiB; from half of that on weights go to a file of their own.
EXTERNAL_DATA_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """`parts`: which; `max_batch`: sessions that may share a call."""

    precision: str = "fp32"
    parts: tuple[str, ...] = PARTS
    max_batch: int = MAX_BATCH
    external_data_bytes: int = EXTERNAL_DATA_BYTES

    def __post_init__(self) -> None:
        if self.precision not in DTYPES:
            raise InvalidInput("precision", self.precision, ", ".join(DTYPES))
        if not 2 <= self.max_batch <= 64:
            raise InvalidInput("max_batch", self.max_batch, "2..64 sessions")
        if not self.parts or set(self.parts) - set(PARTS):
            raise InvalidInput("parts", ", ".join(self.parts) or "none", ", ".join(PARTS))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The models that graphs are made of, as loaded: fp32, nothing folded."""

    preset: Preset
    encoder: VQModel
    video_decoder: VideoDecoder


def export(source: Source, folder: Path, options: ExportOptions) -> dict[Form, GraphManifest]:
    """Writes the graphs of the chosen parts. Raises Unavailable, InvalidInput."""
    cpu = torch.device("cpu")
    weights = Host.of(source.preset, source.encoder, source.video_decoder, cpu).weights
    manifests = {}
    forms = [form for form in FORMS if form.part in options.parts]
    with tqdm(forms, unit="graph", desc="export") as bar:
        for form in bar:
            bar.set_postfix_str(form.name)
            manifests[form] = _export_form(source, form, folder, options, weights[form.part])
    return manifests


def _export_form(
    source: Source, form: Form, folder: Path, options: ExportOptions, weights_sha256: str
) -> GraphManifest:
    takes, gives = interface(source.preset.vq, form)

    def manifest(sha256: str, files: Sequence[str]) -> GraphManifest:
        return GraphManifest(
            preset=source.preset.name,
            config=config_of(source.preset),
            form=form,
            input=takes,
            output=gives,
            max_batch=options.max_batch,
            precision=options.precision,
            opset=OPSET,
            exporter=f"torch {torch.__version__}",
            weights_sha256=weights_sha256,
            graph_sha256=sha256,
            files=tuple(files),
        )

    path = graph_path(folder, form)
    kept = kept_graph(path, manifest)
    if kept is not None:
        return kept
    module = graph_module(form, source.encoder, source.video_decoder, options.precision)
    with staging(folder, form.name) as stage:
        to_onnx(module, form, source.preset, stage / f"{form.name}.onnx", options)
        files = sorted(file.name for file in stage.iterdir())
        made = manifest(files_sha256(stage / name for name in files), files)
        path.unlink(missing_ok=True)  # the old manifest must not stand beside the new graph
    write(path, made)
    return made


def kept_graph(
    path: Path, manifest: Callable[[str, Sequence[str]], GraphManifest]
) -> GraphManifest | None:
    """The graph that lies there if it is the one that `manifest` describes, and whole."""
    try:
        found = read_graph(path)
        sha256 = files_sha256(path.parent / name for name in found.files)
    except EngineError:
        return None
    return found if found == manifest(sha256, found.files) else None


def to_onnx(
    module: nn.Module, form: Form, preset: Preset, path: Path, options: ExportOptions
) -> None:
    """One ONNX file with a batch of 1..max_batch and static shapes else, found good by onnx."""
    takes, gives = interface(preset.vq, form)
    batch = torch.export.Dim("batch", min=1, max=options.max_batch)
    # It warns of every operator of torchvision, which is not there on purpose.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        # torch's own use of what it deprecates
        warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)
        program = torch.onnx.export(
            module,
            (example_input(form, preset, 2),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[takes.name],
            output_names=[gives.name],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None  # only `dynamo=False` gives None
    size = sum(p.nbytes for p in module.parameters())
    program.save(str(path), external_data=size >= options.external_data_bytes)
    onnx.checker.check_model(str(path), full_check=True)
