"""Building: what is kept, what is refused, and what an interruption leaves."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engines import build as building
from engines.build import build, check_backend
from engines.build_options import BuildOptions
from engines.builders import BUILDERS
from engines.by_onnxruntime import BY_ONNX_RUNTIME
from engines.export import ExportOptions
from engines.files import staging
from sim_stream.errors import EngineError, InvalidInput, Unavailable
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import ENCODE
from sim_stream.runtime.engine_manifest import engine_path, read_engine
from sim_stream.runtime.tensorrt_backend import TENSORRT
from tests.engines.conftest import TINY, source_of


@pytest.fixture
def folder(tiny_engines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engines, tmp_path / "engines"))


def test_a_second_build_keeps_engines_and_their_verification(folder: Path) -> None:
    path = engine_path(folder, ENCODE)
    written = path.stat().st_mtime_ns
    manifests = build(source_of(TINY), folder, ExportOptions(), BuildOptions())
    assert path.stat().st_mtime_ns == written
    assert all(manifest.verification["passed"] for manifest in manifests.values())


def test_other_weights_are_built_anew_and_lose_the_verification(folder: Path) -> None:
    before = read_engine(engine_path(folder, ENCODE))
    encoder_only = ExportOptions(parts=("encoder",))
    after = build(source_of(TINY, seed=1), folder, encoder_only, BuildOptions())[ENCODE]
    assert after.engine_sha256 != before.engine_sha256
    assert before.verification and not after.verification


def test_an_interrupted_build_leaves_no_engine_under_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    broken = replace(BY_ONNX_RUNTIME, make=interrupted)
    monkeypatch.setitem(BUILDERS, "onnxruntime", broken)
    monkeypatch.setattr(building, "kept_engine", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        build(source_of(TINY), folder, ExportOptions(), BuildOptions())
    assert not engine_path(folder, ENCODE).exists()
    assert not list(folder.glob(".*"))


def test_a_graph_that_onnx_runtime_refuses_is_an_engine_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "graphs" / "encoder.onnx").write_bytes(b"broken")
    graphs = {ENCODE: read_engine(engine_path(folder, ENCODE)).graph}
    monkeypatch.setattr(building, "export", lambda *_: graphs)
    with pytest.raises(EngineError, match=r"encoder\.onnx: ONNX Runtime cannot load it"):
        build(source_of(TINY), folder, ExportOptions(), BuildOptions())
    assert not engine_path(folder, ENCODE).exists()


def test_staged_files_appear_only_at_the_end(tmp_path: Path) -> None:
    with staging(tmp_path, "engine") as stage:
        (stage / "engine.plan").write_bytes(b"half")
        assert not (tmp_path / "engine.plan").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["engine.plan"]
    with pytest.raises(RuntimeError), staging(tmp_path, "other") as stage:
        (stage / "other.plan").write_bytes(b"half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["engine.plan"]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full")],
)
def test_what_keeps_files_from_being_written_is_said_plainly(
    tmp_path: Path, number: int, message: str
) -> None:
    # A real refusal needs another user than root, a real full disk a disk.
    with pytest.raises(Unavailable, match=message), staging(tmp_path, "engine") as stage:
        (stage / "engine.plan").write_bytes(b"half")
        raise OSError(number, os.strerror(number), str(stage / "engine.plan"))
    assert list(tmp_path.iterdir()) == []


def test_missing_backends_and_providers_are_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(BACKENDS, "tensorrt", replace(TENSORRT, version=lambda: None))
    with pytest.raises(Unavailable, match=r"tensorrt is not installed: pip install"):
        check_backend(BuildOptions(backend="tensorrt"), "bf16")
    monkeypatch.undo()
    with pytest.raises(Unavailable, match=r"no TensorrtExecutionProvider here.*CPUExecution"):
        check_backend(BuildOptions(provider="tensorrt"), "bf16")
    with pytest.raises(InvalidInput, match=r"precision.*bf16.*fp32"):
        check_backend(BuildOptions(), "bf16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "openvino"}, r"backend.*openvino.*onnxruntime, tensorrt, torch-tensorrt"),
        ({"provider": "coreml"}, r"provider.*coreml.*cpu, cuda, tensorrt"),
        ({"workspace_bytes": 1}, "workspace_bytes"),
        ({"optimization_level": 6}, r"optimization_level.*6.*0\.\.5"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        BuildOptions(**options)
