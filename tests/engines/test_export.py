"""Exported graphs: what is in them, what their manifests say, and what a broken export leaves."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engines import export as exporting
from engines.export import OPSET, ExportOptions, export
from sim_stream.config import Preset
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.onnx_runtime import onnxruntime as ort
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY
from sim_stream.runtime.engine_manifest import files_sha256, graph_path, read_graph
from tests.engines.conftest import TINY, source_of
from tests.small import OPENVIGA_CUT

ENCODER_ONLY = ("encoder",)
# Everything the two parts are made of. What is not here was not meant to be in a graph.
EXPECTED = {
    "both": {"Add", "Cast", "Concat", "Constant", "Conv", "Div", "GroupNormalization", "Mul"}
    | {"Reshape", "Shape", "Sigmoid", "Sub", "Transpose"},
    "encoder": {"ArgMin", "MatMul", "Pad", "Pow", "ReduceSum", "Unsqueeze"},
    "video_decoder": {"Clip", "Gather", "Round", "Slice", "Split"},
}


@pytest.fixture(
    params=[TINY, pytest.param(OPENVIGA_CUT, marks=pytest.mark.slow)],
    ids=lambda preset: preset.name,
)
def graphs(request: pytest.FixtureRequest, built) -> Iterator[dict[str, onnx.ModelProto]]:
    preset: Preset = request.param
    folder = built(preset) / "graphs"
    yield {form.name: onnx.load(folder / f"{form.name}.onnx") for form in FORMS}


def test_graphs_hold_only_2d_convolutions_and_known_operators(
    graphs: dict[str, onnx.ModelProto],
) -> None:
    for name, model in graphs.items():
        part = "encoder" if name == "encoder" else "video_decoder"
        found = {node.op_type for node in model.graph.node}
        assert found <= EXPECTED["both"] | EXPECTED[part], name
        assert {node.domain for node in model.graph.node} <= {""}
        shapes = {weight.name: len(weight.dims) for weight in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert convolutions
        assert {shapes[node.input[1]] for node in convolutions} == {4}


def test_only_the_batch_is_dynamic(graphs: dict[str, onnx.ModelProto]) -> None:
    for model in graphs.values():
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        for tensor in (*model.graph.input, *model.graph.output):
            batch, *rest = tensor.type.tensor_type.shape.dim
            assert batch.dim_param
            assert all(dim.HasField("dim_value") for dim in rest)


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)]
)
def test_a_graph_in_half_precision_has_its_norms_in_fp32(
    tmp_path: Path, precision: str, kind: int
) -> None:
    options = ExportOptions(precision=precision, parts=ENCODER_ONLY)
    export(source_of(TINY), tmp_path, options)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "encoder.onnx"))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {weight.name: weight.data_type for weight in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "GroupNormalization"]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert norms
    assert {types[name] for node in norms for name in node.input} == {TensorProto.FLOAT}
    assert {types[node.input[1]] for node in convolutions} == {kind}


def test_weights_of_a_big_graph_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    options = ExportOptions(parts=ENCODER_ONLY, external_data_bytes=1)
    manifest = export(source_of(TINY), tmp_path, options)[ENCODE]
    assert manifest.files == ("encoder.onnx", "encoder.onnx.data")
    assert manifest.graph_sha256 == files_sha256(tmp_path / name for name in manifest.files)
    session = ort.InferenceSession(tmp_path / "encoder.onnx")
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    assert session.run(None, {"frames": frames})[0].shape == (8, 64)


def test_a_graph_that_is_there_stays_and_a_broken_one_is_made_again(tmp_path: Path) -> None:
    source, options = source_of(TINY), ExportOptions(parts=ENCODER_ONLY)
    path = tmp_path / "encoder.onnx"
    first = export(source, tmp_path, options)[ENCODE]
    written = path.stat().st_mtime_ns
    assert export(source, tmp_path, options)[ENCODE] == first
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-1])
    assert export(source, tmp_path, options)[ENCODE].graph_sha256 == first.graph_sha256
    onnx.checker.check_model(path)
    other = export(source_of(TINY, seed=1), tmp_path, options)[ENCODE]
    assert other.weights_sha256 != first.weights_sha256
    assert read_graph(graph_path(tmp_path, ENCODE)) == other


def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting.onnx.checker, "check_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(source_of(TINY), tmp_path, ExportOptions(parts=ENCODER_ONLY))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"file: not a folder"):
        export(source_of(TINY), tmp_path / "file", ExportOptions(parts=ENCODER_ONLY))


def test_a_full_disk_is_said_plainly_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "to_onnx", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        export(source_of(TINY), tmp_path, ExportOptions(parts=ENCODER_ONLY))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("encoder", "audio")}, r"parts.*audio.*encoder, video_decoder"),
        ({"parts": ()}, r"parts.*none.*encoder, video_decoder"),
        ({"max_batch": 1}, r"max_batch.*1.*2\.\.64"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ExportOptions(**options)


def test_a_manifest_says_what_the_graph_is(tiny_engines: Path) -> None:
    values = json.loads(graph_path(tiny_engines / "graphs", STEADY).read_text())
    assert values["form"] == {"part": "video_decoder", "frames": 3, "emit": 1}
    assert values["input"] == {"name": "ids", "dtype": "int64", "shape": [3, 64]}
    assert values["output"] == {"name": "frames", "dtype": "uint8", "shape": [16, 16, 3]}
    assert (values["precision"], values["max_batch"], values["opset"]) == ("fp32", 8, OPSET)
