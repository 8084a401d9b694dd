"""Engines by torch-tensorrt: a program from a module. What calls it is `torch_tensorrt_builder`."""

from __future__ import annotations

from pathlib import Path

from engines.builder import Builder, BuildTask
from engines.by_tensorrt import built_with
from engines.graphs import example_input, graph_module
from sim_stream.runtime.torch_tensorrt_backend import TORCH_TENSORRT


def make(task: BuildTask, stage: Path) -> None:
    from engines.torch_tensorrt_builder import compile_to

    source, planned = task.source, task.planned
    form, precision = planned.graph.form, planned.graph.precision
    module = graph_module(form, source.encoder, source.video_decoder, precision).cuda()
    example = example_input(form, source.preset, 2).cuda()
    compile_to(stage / planned.files[0], module, example, planned.graph, planned.build)


BY_TORCH_TENSORRT = Builder(backend=TORCH_TENSORRT, built_with=built_with, make=make)
