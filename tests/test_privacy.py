"""Nothing phones home, and nothing is left in the user's folders (docs/privacy.md)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from sim_stream import onnx_runtime, quiet
from tests.test_imports import FOLDERS, ROOT, imported_modules

SCRIPTS = ("tests", "tools", "examples")
ONLY_PLACE = ROOT / "sim_stream" / "onnx_runtime.py"
# Each imports all that it runs with, but for what it loads when it gets there.
ENTRIES = (
    "sim_stream.serve",
    "sim_stream.pipelines.tokens.runtime",
    "engines.cli",
    "engines.export",
)
ENTRIES += ("engines.verify", "engines.profile", "train.stages", "train.lora", "train.teacher")

WATCH = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        for package, switch in (("onnxruntime", "ORT_DISABLE_TELEMETRY"),
                                ("huggingface_hub", "HF_HUB_DISABLE_TELEMETRY")):
            if name == package:
                seen.append(package)
                assert os.environ.get(switch) == "1", f"{package} is imported with {switch} unset"

seen = []
sys.meta_path.insert(0, Watch())
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "onnxruntime" in seen, "the test looks at nothing"
"""


def talkative(home: Path) -> dict[str, str]:
    """An environment of a user who never heard of telemetry, but for one that asks for it."""
    dropped = {*quiet.SWITCHES, "DO_NOT_TRACK", "SE_AVOID_STATS", "HF_HUB_OFFLINE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    kept = {name: value for name, value in kept.items() if not name.startswith("XDG_")}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"}


def names_onnxruntime(path: Path) -> bool:
    """Imports it in any way, or hands its name to `import_module`."""
    imports = (name.split(".")[0] == "onnxruntime" for _, name in imported_modules(path))
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    by_name = (
        isinstance(argument, ast.Constant) and argument.value == "onnxruntime"
        for call in calls
        if ast.unparse(call.func).split(".")[-1] in ("import_module", "__import__", "importorskip")
        for argument in call.args
    )
    return any(imports) or any(by_name)


def test_onnx_runtime_is_imported_in_one_place() -> None:
    files = [path for folder in (*FOLDERS, *SCRIPTS) for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    assert [path for path in files if names_onnxruntime(path)] == [ONLY_PLACE]


def test_the_switches_are_set_whatever_they_were_before() -> None:
    code = "import os, sim_stream; print(*map(os.environ.get, sim_stream.quiet.SWITCHES))"
    for value in ("", "0", "false"):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(quiet.SWITCHES, value)}
        said = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        ).stdout.split()
        assert said == [*quiet.SWITCHES.values()] == ["1", "1"]


def test_every_program_imports_its_dependencies_with_telemetry_off(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCH, *ENTRIES]
    done = subprocess.run(command, env=talkative(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [*tmp_path.iterdir()] == []


def test_the_demo_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "sim_stream", "demo", "--frames", "3", "--pace", "0"],
        cwd=work,
        env=talkative(home),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "elemetry" not in done.stderr
    assert [path.name for path in sorted(work.iterdir())] == ["demo.mp4", "demo.png"]
    assert [*home.rglob("*")] == []


def test_the_one_place_gives_the_real_thing() -> None:
    assert hasattr(onnx_runtime.onnxruntime, "InferenceSession")
