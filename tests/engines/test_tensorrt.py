"""On a machine with TensorRT and a GPU: plans are built, verified, run and refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.build import build
from engines.build_options import BuildOptions
from engines.export import ExportOptions
from engines.verify import verify
from sim_stream.errors import EngineError
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY
from sim_stream.runtime.engine_loader import load_engine, load_folder
from sim_stream.runtime.engine_manifest import Host, engine_path, files_sha256, read_engine, write
from tests.engines.conftest import TINY, real_frames, source_of

pytestmark = [pytest.mark.tensorrt, pytest.mark.gpu]
TENSORRT = BuildOptions(backend="tensorrt", workspace_bytes=1 << 30)


def host() -> Host:
    source = source_of(TINY)
    return Host.of(TINY, source.encoder, source.video_decoder, torch.device("cuda"))


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tensorrt")
    source = source_of(TINY)
    build(source, made, ExportOptions(precision=request.param), TENSORRT)
    verify(made, source, real_frames(TINY), torch.device("cuda"), "shipped clip")
    return made


def test_plans_pass_their_verification(folder: Path) -> None:
    for form in FORMS:
        assert read_engine(engine_path(folder, form)).verification["passed"]
    assert list(folder.glob("timing-*.cache"))


def test_every_batch_size_has_its_own_graph_and_equal_rows(folder: Path) -> None:
    engines = load_folder(folder, host())
    frames = real_frames(TINY, 8).cuda()
    alone = torch.cat([engines.encode(row) for row in frames.split(1)])
    assert torch.equal(engines.encode(frames[:1]), alone[:1])
    for batch in (2, 8):  # another batch size may take other kernels
        assert (engines.encode(frames[:batch]) == alone[:batch]).float().mean() > 0.95


def test_results_survive_the_next_call(folder: Path) -> None:
    engines = load_folder(folder, host())
    frames = real_frames(TINY, 2).cuda()
    first = engines.encode(frames[:1])
    kept = first.clone()
    engines.encode(frames[1:])
    assert torch.equal(first, kept)


def test_layers_have_times(folder: Path) -> None:
    manifest = read_engine(engine_path(folder, STEADY))
    engine = load_engine(folder, manifest, host())
    x = torch.zeros(1, 3, TINY.vq.codes_per_frame, dtype=torch.int64, device="cuda")
    times = engine.layer_times_ms(x)  # type: ignore[attr-defined]
    assert times and all(ms >= 0.0 for ms in times.values())


def test_a_corrupt_plan_is_refused_even_with_a_matching_hash(folder: Path, tmp_path: Path) -> None:
    manifest = read_engine(engine_path(folder, ENCODE))
    plan = tmp_path / manifest.files[0]
    plan.write_bytes((folder / manifest.files[0]).read_bytes()[:-1000])
    changed = replace(manifest, engine_sha256=files_sha256([plan]))
    write(engine_path(tmp_path, ENCODE), changed)
    with pytest.raises(EngineError, match=r"TensorRT .* refuses it"):
        load_engine(tmp_path, changed, host())
