"""An engine that was not made for what it should run with is refused, and both sides are named."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines import cli as engines_cli
from engines.build import build
from engines.build_options import BuildOptions
from engines.export import ExportOptions
from sim_stream.errors import EngineError, InvalidInput
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.runtime import engine_manifest
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY
from sim_stream.runtime.engine_loader import load_folder, read_folder
from sim_stream.runtime.engine_manifest import Host, engine_path, read_engine, weights_sha256, write
from sim_stream.runtime.tensorrt_backend import TENSORRT
from tests.engines.conftest import CPU, TINY, source_of
from tests.small import random_runtime


@pytest.fixture
def folder(tiny_engines: Path, tmp_path: Path) -> Path:
    """Engines that a test may break."""
    return Path(shutil.copytree(tiny_engines, tmp_path / "engines"))


def host(seed: int = 0) -> Host:
    source = source_of(TINY, seed)
    return Host.of(TINY, source.encoder, source.video_decoder, CPU)


def test_a_manifest_reads_back_as_it_was_written(folder: Path) -> None:
    manifest = read_engine(engine_path(folder, STEADY))
    write(folder / "again.json", manifest)
    assert read_engine(folder / "again.json") == manifest
    assert manifest.backend == "onnxruntime"
    assert manifest.verification["passed"]


def test_engines_of_other_weights_are_refused(folder: Path) -> None:
    ours = host().weights["encoder"]
    with pytest.raises(EngineError) as error:
        random_runtime(TINY, seed=1, engines=folder)
    assert f"weights: the engine's is {ours}, here it is {host(1).weights['encoder']}" in str(
        error.value
    )


def test_every_difference_is_named_at_once(folder: Path) -> None:
    path = engine_path(folder, ENCODE)
    changed = replace(
        read_engine(path),
        backend_version="0.1",
        device="NVIDIA H100 80GB HBM3",
        compute_capability=(9, 0),
    )
    write(path, changed)
    with pytest.raises(EngineError) as error:
        read_folder(folder, host())
    message = str(error.value)
    assert str(path) in message
    assert "onnxruntime version: the engine's is 0.1, here it is 1." in message
    assert "device: the engine's is NVIDIA H100 80GB HBM3, here it is cpu" in message
    assert "compute capability: the engine's is (9, 0), here it is ()" in message


def test_an_engine_of_a_missing_backend_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_path(folder, ENCODE)
    write(path, replace(read_engine(path), backend="tensorrt", backend_version="11.4.0.106"))
    monkeypatch.setitem(BACKENDS, "tensorrt", replace(TENSORRT, version=lambda: None))
    with pytest.raises(EngineError, match=r"11\.4\.0\.106, here it is not installed"):
        read_folder(folder, host())


def test_a_changed_file_is_refused_before_it_is_loaded(folder: Path) -> None:
    path = folder / "graphs" / "video_decoder_3_1.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match="file's SHA-256"):
        random_runtime(TINY, engines=folder)


def test_a_corrupt_graph_with_a_matching_hash_is_still_an_error(folder: Path) -> None:
    (folder / "graphs" / "encoder.onnx").write_bytes(b"not a graph")
    path = engine_path(folder, ENCODE)
    sha256 = engine_manifest.files_sha256([folder / "graphs" / "encoder.onnx"])
    write(path, replace(read_engine(path), engine_sha256=sha256))
    with pytest.raises(EngineError, match=r"encoder\.onnx: ONNX Runtime cannot load it"):
        load_folder(folder, host())


def test_a_missing_engine_is_refused(folder: Path) -> None:
    engine_path(folder, FORMS[-1]).unlink()
    with pytest.raises(EngineError, match=r"video_decoder_1_0\.engine\.json: no such file"):
        load_folder(folder, host())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', '{"format": 1, "graph": {}}'])
def test_a_broken_manifest_is_refused_by_its_path(folder: Path, text: str) -> None:
    engine_path(folder, STEADY).write_text(text)
    with pytest.raises(EngineError, match=r"video_decoder_3_1\.engine\.json"):
        load_folder(folder, host())


DEEP = json.loads("[" * 40 + "]" * 40)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("files",), ["../../etc/passwd"], "files are .*allowed: files in its folder"),
        (("files",), ["/etc/passwd"], "files are .*allowed: files in its folder"),
        (("files",), [], "files are .*allowed: files in its folder"),
        (("files",), None, "EngineManifest.files is 'None'; allowed: texts"),
        (("files",), [3], "EngineManifest.files"),
        (("graph",), None, "says nothing of its graph"),
        (("graph", "form"), None, "Form"),
        (("graph", "form", "part"), {"a": 1}, "part: got"),
        (("graph", "max_batch"), "8", "GraphManifest.max_batch is '8'; allowed: a whole number"),
        (("graph", "max_batch"), 10**9, "max_batch 1000000000"),
        (("graph", "precision"), "fp3", "precision is 'fp3'"),
        (("graph", "input", "shape"), [16, None], "TensorSpec.shape"),
        (("backend",), "bash", "backend is 'bash'; allowed: onnxruntime"),
        (("backend",), None, "EngineManifest.backend is 'None'; allowed: text"),
        (("verification",), {"passed": "yes"}, "verification.passed is 'yes'; allowed: a bool"),
        (("verification",), None, "EngineManifest.verification is 'None'; allowed: an object"),
        (("build",), {"workspace_bytes": "x"}, "build.workspace_bytes is x"),
        (("build",), 2**70, "whole number beyond 64 bits"),
        (("device",), DEEP, "nested deeper than 32 levels"),
    ],
)
def test_a_manifest_that_somebody_edited_is_refused_by_field(
    folder: Path, where: tuple[str, ...], value: object, said: str
) -> None:
    path = engine_path(folder, STEADY)
    values = json.loads(path.read_text())
    inner = values
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises(EngineError, match=said) as error:
        read_folder(folder, host())
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["graphs/encoder.onnx", "encoder.engine.json"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a FIFO, no regular file"),
        (os.mkdir, "a folder, no regular file"),
        (lambda path: os.symlink("gone", path), "a link to nowhere"),
    ],
)
def test_what_is_no_file_is_named_and_never_waited_for(
    folder: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(EngineError, match=f"{name}: {said}"):
        read_folder(folder, host())


@pytest.mark.parametrize("subcommand", ["verify", "profile"])
def test_the_commands_say_it_in_one_line_with_status_2(
    folder: Path, subcommand: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_path(folder, ENCODE).write_text('{"a":' * 100_000)
    assert engines_cli.main([subcommand, str(folder)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.isprintable() and said.startswith(f"engines {subcommand}: ")


def test_an_engine_without_verification_is_refused(tmp_path: Path, tiny_engines: Path) -> None:
    folder = tmp_path / "engines"
    shutil.copytree(tiny_engines / "graphs", folder / "graphs")
    build(source_of(TINY), folder, ExportOptions(), BuildOptions())
    with pytest.raises(EngineError, match="never verified; run: python -m engines verify"):
        load_folder(folder, host())


def test_what_is_neither_a_mode_nor_a_folder_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"fastest.*eager, compiled, cuda-graph or a folder"):
        Runtime.load("pocket", device="cpu", engines="fastest")


def test_the_weights_hash_is_of_values_not_of_types_or_of_the_image_decoder() -> None:
    source = source_of(TINY)
    before = weights_sha256(source.encoder)
    with torch.no_grad():
        source.encoder.decoder.conv_in.weight.add_(1.0)
    assert weights_sha256(source.encoder) == before
    assert weights_sha256(source.encoder.double()) == before
    with torch.no_grad():
        source.encoder.quantize.embedding.weight[0, 0] += 1e-3
    assert weights_sha256(source.encoder) != before


def test_manifests_are_json_for_people(folder: Path) -> None:
    values = json.loads(engine_path(folder, STEADY).read_text())
    assert values["verification"]["clip"] == "shipped clip"
    assert values["files"] == ["graphs/video_decoder_3_1.onnx"]
