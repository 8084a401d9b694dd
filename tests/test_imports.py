"""Imports run one way (design.md, "Folders"), and what must be light is light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sim_stream

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("sim_stream", "engines", "train", "bridge")

# errors and config, and what stands beside them: files and text of others, counts of positions,
# JSON, videos and prompts.
BASE = {"clips", "errors", "expects", "config", "files", "layout", "plain_file", "plain_json"}
BASE |= {"last_resort", "prompts", "text"}
BASE |= {"jpeg", "media_path", "video", "video_reader", "video_writer"}
BASE |= {"outputs", "stop_signals", "by_name", "spec", "stream_model"}
# What each part of sim_stream may import of sim_stream. `serve` alone joins pipelines and wire.
ALLOWED: dict[str, set[str]] = {
    **{name: BASE for name in BASE},
    # A strategy's file says what configures it. It needs types of ours, but at run time no module.
    "config": BASE | {"decoding"},
    "models": BASE | {"models"},
    "quiet": set(),
    "onnx_runtime": {"quiet"},
    "decoding": BASE | {"models", "decoding", "onnx_runtime"},
    "runtime": BASE | {"models", "decoding", "onnx_runtime", "runtime"},
    "pipelines": BASE | {"decoding", "models", "onnx_runtime", "pipelines", "runtime"},
    "wire": BASE | {"wire"},
    "recording": BASE | {"recording", "model_options", "server_process", "wire"},
    "named_model": BASE,
    "serve": BASE
    | {"logs", "metrics", "model_options", "models", "named_model", "pipelines", "recording"}
    | {"server_process", "wire"},
    "server_process": BASE | {"logs"},
    "model_options": BASE,
    "console": BASE,
    "logs": {"plain_json", "text"},
    "metrics": BASE | {"scrapes", "wire", ""},
    "scrapes": {"last_resort"},
    "view": BASE | {"model_options", "server_process", "view", "wire"},
    "demo": BASE | {"model_options", "recording", "wire", "server_process"},
    # The client side for what it measures; models and runtime for counts and the sweep.
    "bench": BASE
    | {"bench", "demo", "model_options", "server_process", "wire", "models", "decoding", "runtime"}
    | {"pipelines", ""},
    "doctor": BASE | {"models", "runtime", ""},
    "connect_options": BASE,
    "cli": BASE
    | {"model_options", "serve", "demo", "recording", "bench", "doctor", "models", "cli", ""}
    | {"connect_options", "console", "decoding", "logs", "view", "wire"},
    "__main__": {"cli"},
}
# What the other folders may import of sim_stream; None: everything. They never import each other.
# The bridge takes the client's side; its `drive` also starts a server as a process.
OUTSIDE: dict[str, set[str] | None] = {
    "engines": None,
    "train": None,
    "bridge": BASE | {"connect_options", "console", "wire", "model_options", "server_process"},
}
LIGHT = (
    "sim_stream",
    "sim_stream.cli",
    "sim_stream.config",
    "sim_stream.decoding.strategies",
    "sim_stream.runtime.backends",
    "sim_stream.wire.client.blocking_client",
    "sim_stream.wire.client.async_client",
)


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions too; from-imports name both."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def part_of(dotted: str) -> str:
    """'sim_stream.models.layers.x' -> 'models'; a name of sim_stream itself -> ''."""
    names = dotted.split(".")
    parts = {entry.stem for entry in (ROOT / "sim_stream").iterdir()}
    return names[1] if len(names) > 1 and names[1] in parts else ""


def forbidden(path: Path) -> list[str]:
    """Every import of that file that runs the wrong way."""
    folder, *rest = path.relative_to(ROOT).parts
    own = Path(rest[0]).stem
    if folder == "sim_stream" and own not in ALLOWED:
        return [f"{path.relative_to(ROOT)}: say in ALLOWED what {own} may import"]
    allowed = ALLOWED[own] if folder == "sim_stream" else OUTSIDE[folder]
    found = []
    for line, dotted in imported_modules(path):
        top = dotted.split(".")[0]
        if top not in FOLDERS or (top == folder != "sim_stream"):
            continue
        if top != "sim_stream" or (allowed is not None and part_of(dotted) not in allowed):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {dotted}")
    return found


def sources() -> list[Path]:
    public = ROOT / "sim_stream" / "__init__.py"  # loads names lazily, from everywhere
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in files if path != public]


def test_imports_run_one_way() -> None:
    files = sources()
    assert len(files) > 10
    assert [fault for path in files for fault in forbidden(path)] == []


def test_the_sides_of_the_wire_do_not_import_each_other() -> None:
    wire = ROOT / "sim_stream" / "wire"
    sides = {"client", "server"}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        for path in sorted(wire.rglob("*.py"))
        for line, dotted in imported_modules(path)
        for side in sides - {path.parent.name}
        if dotted.startswith(f"sim_stream.wire.{side}")
    ]
    assert len(list(wire.glob("server/*.py"))) > 10
    assert found == []


def test_recordings_know_no_server() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        for path in sorted((ROOT / "sim_stream" / "recording").rglob("*.py"))
        for line, dotted in imported_modules(path)
        if dotted.startswith("sim_stream.wire.server")
    ]
    assert found == []


def test_the_check_sees_a_wrong_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models", "runtime", "wire"):
        (tmp_path / "sim_stream" / name).mkdir(parents=True)
    (tmp_path / "bridge").mkdir()
    wrong = {
        "sim_stream/models/a.py": "def f():\n    from sim_stream.runtime import session\n",
        "sim_stream/wire/b.py": "from ..models import layers\n",
        "bridge/c.py": "import train.data\nfrom sim_stream import runtime\n",
    }
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    faults = []
    for name, text in wrong.items():
        (tmp_path / name).write_text(text)
        faults += forbidden(tmp_path / name)
    assert faults == [
        "sim_stream/models/a.py:2 imports sim_stream.runtime.session",
        "sim_stream/wire/b.py:1 imports sim_stream.models.layers",
        "bridge/c.py:1 imports train.data",
        "bridge/c.py:2 imports sim_stream.runtime",
    ]


@pytest.mark.parametrize("module", LIGHT)
def test_import_brings_no_torch(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'av') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_public_surface_is_small_sorted_and_loads() -> None:
    assert sim_stream.__all__ == [
        "Action",
        "AsyncStreamClient",
        "Chunk",
        "InvalidInput",
        "RemoteChunk",
        "Runtime",
        "SamplingConfig",
        "SimStreamError",
        "StreamClient",
        "StreamModel",
        "StreamServer",
        "StreamSpec",
        "TokenModel",
        "get_preset",
        "read_clip",
    ]
    assert sim_stream.__all__ == sorted(sim_stream.__all__)
    for name in sim_stream.__all__:
        assert getattr(sim_stream, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sim_stream.Nothing


def ring_of(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, where there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring: list[str] = error.args[1]
        return ring
    return []


def not_at_import(path: Path) -> set[int]:
    """The lines of imports for types alone, and of those that a function makes when it is called:
    so a registry loads what it lists."""
    later = (ast.FunctionDef, ast.AsyncFunctionDef)
    blocks = [
        node
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, later)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return {line for block in blocks for line in range(block.lineno, (block.end_lineno or 0) + 1)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        skipped = not_at_import(path)
        names = {name for line, name in imported_modules(path) if line not in skipped}
        found = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in found if name in files} - {module}
    assert ring_of(graph) == []


def test_a_circle_is_found() -> None:
    assert set(ring_of({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
