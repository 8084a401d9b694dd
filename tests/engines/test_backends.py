"""A backend is one object on each side: what is declared here is listed, built, run and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from engines import cli
from engines.build import build, check_backend
from engines.build_options import BuildOptions
from engines.builder import Builder, BuildTask
from engines.builders import BUILDERS
from engines.export import ExportOptions
from engines.profile import profile
from engines.verify import verify
from sim_stream import doctor
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.runtime.backend import Backend
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import FORMS, Engine
from sim_stream.runtime.engine_loader import load_folder
from sim_stream.runtime.engine_manifest import EngineManifest, Host, engine_path
from sim_stream.runtime.torch_engine import EagerEngine, function_of
from tests.engines.conftest import CPU, TINY, real_frames, source_of
from tests.small import random_runtime


def load(path: Path, manifest: EngineManifest, host: Host) -> Engine:
    """The twin itself: its file only names the form."""
    if path.read_text() != manifest.graph.form.name:
        raise EngineError(f"{path}: of another form")
    source = source_of(host.preset)
    return EagerEngine(function_of(source.encoder, source.video_decoder, manifest.graph.form))


def make(task: BuildTask, stage: Path) -> None:
    (stage / task.planned.files[0]).write_text(task.planned.graph.form.name)


def layer_times_ms(path: Path, manifest: EngineManifest, host: Host, x: Tensor) -> dict[str, float]:
    return {"first": 1.0, "second": 2.0}


MIRROR = Backend(
    name="mirror",
    module="mirror",
    get="nobody ships it",
    providers=("cpu", "cuda"),
    suffix=".mirror",
    version=lambda: "1.0",
    load=load,
    numbers={"level": ("cuda",)},
)
BY_MIRROR = Builder(
    backend=MIRROR,
    built_with=lambda options: {"level": options.optimization_level},
    make=make,
    layer_times_ms=layer_times_ms,
)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of each collection."""
    monkeypatch.setitem(BACKENDS, MIRROR.name, MIRROR)
    monkeypatch.setitem(BUILDERS, MIRROR.name, BY_MIRROR)


def test_every_backend_has_its_builder() -> None:
    assert list(BACKENDS) == list(BUILDERS)
    assert all(BUILDERS[name].backend is backend for name, backend in BACKENDS.items())


@pytest.mark.usefixtures("mirror")
def test_a_backend_of_ones_own_is_built_verified_loaded_and_profiled(tmp_path: Path) -> None:
    source, options = source_of(TINY), BuildOptions(backend="mirror")
    manifests = build(source, tmp_path, ExportOptions(), options)
    assert {m.files for m in manifests.values()} == {(f"{form.name}.mirror",) for form in FORMS}
    assert {m.build["level"] for m in manifests.values()} == {options.optimization_level}
    verify(tmp_path, source, real_frames(TINY), CPU, "shipped clip")

    runtimes = [random_runtime(TINY, engines=engines) for engines in (tmp_path, "eager")]
    assert runtimes[0].engines.description == f"mirror 1.0 (cpu) from {tmp_path}"
    prompt = real_frames(TINY, 2).numpy()
    sessions = [runtime.open_session() for runtime in runtimes]
    images = [session.reset(prompt, seed=0).image for session in sessions]
    assert np.array_equal(*images)

    report = profile(tmp_path, source, real_frames(TINY), CPU, batch=1, rounds=1)
    engine = report["engines"][FORMS[0].name]
    assert engine["layers_ms"] == {"second": 2.0, "first": 1.0}
    assert engine["backend"] == "mirror 1.0 (cpu)"


@pytest.mark.usefixtures("mirror")
def test_a_backend_of_ones_own_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match=r"got fog; allowed: onnxruntime, .*, mirror$"):
        BuildOptions(backend="fog")
    with pytest.raises(InvalidInput, match="provider: got tensorrt; allowed: cpu, cuda for mirror"):
        BuildOptions(backend="mirror", provider="tensorrt")
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    assert "mirror: cpu, cuda" in " ".join(capsys.readouterr().out.split())


def test_a_backend_of_ones_own_is_refused_where_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: None
) -> None:
    exporting = ExportOptions(parts=("encoder",))
    build(source_of(TINY), tmp_path, exporting, BuildOptions(backend="mirror"))
    path = engine_path(tmp_path, FORMS[0])
    source = source_of(TINY)
    host = Host.of(TINY, source.encoder, source.video_decoder, CPU)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"build": {"level": "high"}}))
    with pytest.raises(EngineError, match=r"build\.level is high; allowed: a whole number"):
        load_folder(tmp_path, host)
    path.write_text(json.dumps(values))

    gone = replace(MIRROR, version=lambda: None, providers=("cuda",))
    monkeypatch.setitem(BACKENDS, MIRROR.name, gone)
    with pytest.raises(EngineError, match=r"mirror version: the engine's is 1\.0, here it is not"):
        load_folder(tmp_path, host)
    said = "mirror is not installed: nobody ships it; needs an NVIDIA GPU"
    with pytest.raises(Unavailable, match=said):
        check_backend(BuildOptions(backend="mirror"), "fp32")
    assert doctor.examine()["accelerators"]["mirror"] == {
        "installed": False,
        "version": None,
        "get": "nobody ships it; needs an NVIDIA GPU",
    }

    monkeypatch.delitem(BACKENDS, MIRROR.name)
    with pytest.raises(EngineError, match="backend is 'mirror'; allowed: onnxruntime, tensorrt"):
        load_folder(tmp_path, host)
