"""Verification finds what is wrong with an engine, and says it in figures."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines import verify as verification
from engines.export import ExportOptions, Source, to_onnx
from engines.graphs import graph_module
from engines.verify import THRESHOLDS, compare, holds, verify, windows
from sim_stream.errors import EngineError
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY, Form
from sim_stream.runtime.engine_manifest import engine_path, files_sha256, read_engine, write
from tests.engines.conftest import CPU, TINY, real_frames, source_of


def test_sound_engines_pass_with_figures(tiny_engines: Path) -> None:
    for form in FORMS:
        figures = read_engine(engine_path(tiny_engines, form)).verification
        assert figures["passed"] and figures["deterministic"] and figures["reload_equal"]
        alone = figures["alone"]
        if form == ENCODE:
            assert alone["ids_agreement"] > 0.999
        else:
            assert alone["max_difference"] <= 1
            assert alone["psnr_db"] is None or alone["psnr_db"] > 55.0


def planted(folder: Path, form: Form, source: Source) -> None:
    """An engine of these weights under a manifest that claims others."""
    path = engine_path(folder, form)
    module = graph_module(form, source.encoder, source.video_decoder, "fp32")
    file = folder / "graphs" / f"{form.name}.onnx"
    to_onnx(module, form, TINY, file, ExportOptions())
    write(path, replace(read_engine(path), engine_sha256=files_sha256([file])))


@pytest.mark.parametrize("form", [ENCODE, STEADY], ids=lambda form: form.name)
def test_slightly_wrong_weights_miss_the_threshold(
    tiny_engines: Path, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_engines, tmp_path / "engines"))
    wrong = source_of(TINY)
    with torch.no_grad():
        wrong.encoder.quant_conv.weight.mul_(1.1)
        wrong.video_decoder.decoder.conv_out.weight.mul_(1.1)
    planted(folder, form, wrong)
    monkeypatch.setattr(verification, "FORMS", (form,))
    found = verify(folder, source_of(TINY), real_frames(TINY), CPU, "shipped clip")[form]
    assert not found.verification["passed"]
    assert read_engine(engine_path(folder, form)) == found


class Constant:
    """An engine that looks at nothing."""

    def run(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), *TINY_PIXELS, dtype=torch.uint8)


class Restless(Constant):
    """An engine whose result changes from call to call."""

    calls = 0

    def run(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().run(x) + self.calls


TINY_PIXELS = TINY.vq.frame.shape


@pytest.mark.parametrize(
    ("engine", "fault"), [(Constant(), "input_matters"), (Restless(), "deterministic")]
)
def test_an_engine_that_ignores_its_input_or_wavers_is_caught(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch, engine: Constant, fault: str
) -> None:
    manifest = read_engine(engine_path(tiny_engines, STEADY))
    monkeypatch.setattr(verification, "load_engine", lambda *_: engine)
    x = torch.zeros(5, 3, TINY.vq.codes_per_frame, dtype=torch.int64)
    expected = torch.zeros(5, *TINY_PIXELS, dtype=torch.uint8)
    source = source_of(TINY)
    host = verification.Host.of(TINY, source.encoder, source.video_decoder, CPU)
    figures = verification.replay(tiny_engines, manifest, host, x, expected)
    assert figures[fault] is False
    assert not figures["passed"]


def test_figures_are_what_they_say() -> None:
    found = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8)
    assert compare(STEADY, found, found) == {"psnr_db": None, "max_difference": 0}
    figures = compare(STEADY, found, found + torch.tensor([0, 2], dtype=torch.uint8))
    assert figures["max_difference"] == 2
    assert figures["psnr_db"] == pytest.approx(45.12, abs=0.01)  # 10 log10(255^2 / 2)
    assert compare(ENCODE, found, found + torch.tensor([0, 1])) == {"ids_agreement": 0.5}
    assert not holds(figures, THRESHOLDS["fp32"])
    assert holds(figures, THRESHOLDS["bf16"])


def test_windows_are_runs_of_frames() -> None:
    ids_KN = torch.arange(8).view(4, 2)
    assert windows(ids_KN, 3).tolist() == [[[0, 1], [2, 3], [4, 5]], [[2, 3], [4, 5], [6, 7]]]


def test_an_empty_folder_has_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engines; `python -m engines build`"):
        verify(tmp_path, source_of(TINY), real_frames(TINY), CPU, "shipped clip")
