"""The code that calls TensorRT, held to the bindings' real names and signatures without a GPU.

`tensorrt_names.json` was read from NVIDIA's wheels (tensorrt_bindings.py). The type check sees a
stub made of it, so a name that one of the versions does not have is an error here. Where wheels can
be fetched, the list itself is compared with them, and our subclasses are made of the real classes.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.engines.tensorrt_bindings import (
    NAMES,
    WHEELS,
    NotFetched,
    as_stub,
    fetch,
    names_of,
    run_or_skip,
)

ROOT = NAMES.parents[2]
MODULES = (ROOT / "sim_stream/runtime/tensorrt_engine.py", ROOT / "engines/tensorrt_builder.py")
LISTED: dict[str, dict[str, list[str]]] = json.loads(NAMES.read_text())
TORCH_TENSORRT = "torch-tensorrt==2.14.0"


def type_check(version: str, stubs: Path, *files: Path) -> str:
    """What mypy says of these files with our stub of that version; empty: nothing."""
    stubs.mkdir()
    (stubs / "tensorrt.pyi").write_text(as_stub(version, LISTED[version]))
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--follow-imports=silent"]
    done = subprocess.run(
        [*command, *map(str, files)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("version", LISTED)
def test_what_we_call_is_there_with_these_signatures(version: str, tmp_path: Path) -> None:
    assert type_check(version, tmp_path / "stubs", *MODULES) == ""


@pytest.mark.slow
def test_removed_names_and_wrong_arguments_are_caught(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt as trt\n\n"
        "a = trt.BuilderFlag.FP16\n"
        "b = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH\n"
        "c = trt.IInt8EntropyCalibrator2\n\n\n"
        "def run(context: trt.IExecutionContext) -> None:\n"
        "    context.execute_v2([1])\n"
        "    context.execute_async_v3(bindings=[1])\n"
    )
    said = type_check(next(reversed(LISTED)), tmp_path / "stubs", wrong)
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "IInt8EntropyCalibrator2"):
        assert f'has no attribute "{name}"' in said
    assert '"IExecutionContext" has no attribute "execute_v2"' in said
    assert 'Unexpected keyword argument "bindings"' in said


def test_the_list_is_of_both_major_versions() -> None:
    assert [version.split(".")[0] for version in LISTED] == list(WHEELS)
    for version, found in LISTED.items():
        assert [name for name, lines in found.items() if not lines] == [], version


@pytest.mark.parametrize("major", WHEELS)
def test_the_list_is_what_the_wheels_say(major: str, tmp_path: Path) -> None:
    try:
        found = names_of(major, tmp_path)
    except NotFetched as error:
        pytest.skip(f"the bindings cannot be had here: {error}")
    assert found == {version: LISTED[version] for version in found}
    assert found


@pytest.mark.parametrize("major", WHEELS)
def test_our_classes_and_polygraphys_options_fit_the_real_bindings(
    major: str, tmp_path: Path
) -> None:
    try:
        environment = fetch(major, tmp_path)
    except NotFetched as error:
        pytest.skip(f"the bindings cannot be had here: {error}")
    code = (
        "from engines.tensorrt_builder import BuildProgress, builder_config, input_profile\n"
        "from sim_stream.runtime.tensorrt_engine import KeptErrors, LayerTimes, trt\n"
        "from pathlib import Path\n"
        "log, times = KeptErrors(), LayerTimes()\n"
        "log.log(trt.ILogger.ERROR, 'first'); log.log(trt.ILogger.INTERNAL_ERROR, 'second')\n"
        "assert str(log) == 'first; second', str(log)\n"
        "times.report_layer_time('conv', 1.5); assert times.ms == {'conv': 1.5}\n"
        "with BuildProgress() as progress:\n"
        "    progress.phase_start('outer', None, 2); progress.phase_start('inner', 'outer', 3)\n"
        "    assert progress.step_complete('inner', 0)\n"
        "    progress.interrupted = True; assert not progress.step_complete('inner', 1)\n"
        "    options = {'workspace_bytes': 1 << 30, 'optimization_level': 3}\n"
        "    builder_config([], options, Path('none.cache'), progress)\n"
        "input_profile('ids', (3, 256), 8)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_torch_tensorrt_takes_the_arguments_that_we_give(tmp_path: Path) -> None:
    """Read from the wheel's source: importing it needs CUDA."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps"]
    try:
        run_or_skip([*command, "--only-binary", ":all:", "--dest", str(tmp_path), TORCH_TENSORRT])
    except NotFetched as error:
        pytest.skip(f"torch-tensorrt's wheel cannot be had here: {error}")
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    ours = ast.parse((ROOT / "engines/torch_tensorrt_builder.py").read_text())
    for called, source in (
        ("torch_tensorrt.dynamo.compile", "torch_tensorrt/dynamo/_compiler.py"),
        ("torch_tensorrt.save", "torch_tensorrt/_compile.py"),
    ):
        tree = ast.parse(wheel.read(source))
        theirs = next(
            node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name == called.rpartition(".")[2]
        )
        taken = {a.arg for a in (*theirs.args.args, *theirs.args.kwonlyargs)}
        calls = [
            node
            for node in ast.walk(ours)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == called
        ]
        assert calls, called
        given = {keyword.arg for call in calls for keyword in call.keywords}
        assert given <= taken, given - taken
