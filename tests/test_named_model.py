"""``--model MODULE:CALLABLE``: a user's own model is served, or refused by name in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sim_stream.by_name import UserCodeFailed, find_callable
from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.named_model import load_model
from sim_stream.serve import ServeOptions
from sim_stream.server_process import ServerProcess
from sim_stream.wire.client.blocking_client import StreamClient

ROOT = Path(__file__).resolve().parents[1]
MODULE = """
from sim_stream.errors import Unavailable
from tests.wire.toy import ToyModel
from tests.wire.toy_worlds import clip_world

def raises():
    raise OSError("no such weights")

def unavailable():
    raise Unavailable("no GPU here")

def half():
    model = ToyModel()
    model.spec = {"model_id": "toy"}
    return model

def empty():
    return object()

def takes(what):
    return ToyModel()

number = 7
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_models", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "my_models"


def test_a_callable_of_no_arguments_gives_the_model(mine: str) -> None:
    assert load_model(f"{mine}:ToyModel").spec.model_id == "toy"
    assert load_model(f"{mine}:clip_world").spec.frames_per_step == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_models", "MODULE:CALLABLE"),
        (":half", "MODULE:CALLABLE"),
        (".half:x", "MODULE:CALLABLE"),
        ("no_such_module:make", "No module named"),
        ("my_models:absent", "has no attribute 'absent'"),
        ("my_models:number", "number, a int"),
        ("my_models:half", "a ToyModel without spec;"),
        ("my_models:empty", "object without spec, open_session, advance"),
    ],
)
def test_what_gives_no_model_is_refused_by_name(mine: str, name: str, said: str) -> None:
    with pytest.raises(InvalidInput, match="model: got ") as refused:
        load_model(name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_models:raises", r"model my_models:raises raised OSError: no such weights \(line 7 of"),
        ("my_models:takes", "raised TypeError: takes"),
        ("broken:make", r"importing it raised ZeroDivisionError.*line 1 of .*broken\.py"),
    ],
)
def test_a_users_error_is_said_with_its_line(mine: str, name: str, said: str) -> None:
    with pytest.raises(UserCodeFailed, match=said):
        load_model(name)


def test_what_a_model_says_itself_stays_as_it_is(mine: str) -> None:
    with pytest.raises(Unavailable, match=r"^no GPU here$"):
        load_model(f"{mine}:unavailable")


def test_nothing_of_a_preset_goes_beside_it() -> None:
    for beside in ({"preset": "openviga"}, {"threads": 2}, {"random_weights": True}):
        with pytest.raises(InvalidInput, match="nothing beside --model"):
            ServeOptions(model="a:b", **beside)  # type: ignore[arg-type]


def test_modules_are_found_where_one_is(tmp_path: Path) -> None:
    """Also by the script `sim-stream`, which does not look there by itself."""
    (tmp_path / "here.py").write_text("def make(): ...\n")
    code = "import sys; sys.path.remove(''); from sim_stream.by_name import find_callable as find\n"
    code += "print(find('model', 'here:make', allowed='').__name__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "make\n"
    assert find_callable("x", "pathlib:Path.cwd", allowed="") == Path.cwd


def test_it_is_served_like_any_other() -> None:
    with (
        ServerProcess(["--model", "tests.wire.toy_worlds:map_world"]) as server,
        StreamClient(server.endpoint) as client,
    ):
        assert client.info.spec.model_id == "toy-map"
        assert [field.name for field in client.info.spec.step_inputs] == ["semantic", "speed_mps"]


def test_the_command_says_in_one_line_what_it_cannot_serve() -> None:
    command = [sys.executable, "-m", "sim_stream", "serve", "--bind", "tcp://127.0.0.1:0"]
    served = subprocess.run(
        [*command, "--model", "tests.wire.toy_worlds:nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert served.returncode == 2
    (line,) = served.stderr.splitlines()
    assert line.startswith("sim-stream serve: model: got tests.wire.toy_worlds:nothing (")
