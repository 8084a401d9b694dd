"""`sim-stream weights` and a server put together from what it made, as a user goes through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file

from sim_stream.cli import main
from sim_stream.config import POCKET
from sim_stream.models import checkpoints
from sim_stream.server_process import ServerProcess
from sim_stream.video import SAMPLE, read_clip
from sim_stream.wire.client.blocking_client import StreamClient
from tests.models.formats.flax_lwm import LWM, random_params, write_params

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = checkpoints.weights_dir("pocket", None)


def weights(*arguments: str | Path) -> int:
    """The subcommand in this process: starting torch anew takes longer than the work."""
    return main(["weights", *map(str, arguments)])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model of pocket's size as LWM would ship it, and an adapter trained on it."""
    folder = tmp_path_factory.mktemp("sources")
    ids = np.zeros((1, 4), int)
    params = random_params(LWM(POCKET.world_model), ids, ids > 0)
    write_params(folder / "params", params, jnp.bfloat16)
    model = checkpoints.make_part(POCKET, "world_model").to_empty(device="cpu")
    config = LoraConfig(r=2, target_modules=["q_proj", "vte"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "lora", save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("step", ["inspect", "convert", "verify"])
def test_every_step_explains_itself(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        weights(step, "--help")
    assert f"usage: sim-stream weights {step}" in capsys.readouterr().out


def test_from_foreign_files_to_a_server_whose_frames_say_they_are_inflated(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights("inspect", sources / "params", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["preset"]) == ("LWM params", "pocket")
    for out, source in (
        ("vqgan", SHIPPED / "vq_model.safetensors"),
        ("world", sources / "params"),
    ):
        assert weights("convert", source, "--out", tmp_path / out, "--model-id", out) == 0
        assert weights("verify", tmp_path / out) == 0
    options = [
        *("--preset", "pocket", "--vqgan", str(tmp_path / "vqgan")),
        *("--world-model", str(tmp_path / "world"), "--adapter", str(sources / "lora")),
    ]
    prompt = read_clip(SAMPLE)
    with (
        ServerProcess([*options, "--video-decoder", "inflate"]) as server,
        StreamClient(server.endpoint, timeout_s=60.0) as client,
        client.open(prompt) as session,
    ):
        assert client.info.spec.model_id == "vqgan+world+lora+inflated"
        assert session.frame.inflated and session.step().inflated


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nowhere"), "path: got nowhere; allowed: an existing file or folder"),
        (("convert", "README.md", "--out", "x"), "README.md: nothing known"),
        (("convert", SHIPPED, "--out", "x"), "weights in a foreign format"),
        (("convert", "README.md", "--out", "x", "--preset", "nano"), "preset: got nano"),
        (("verify", "docs"), "manifest.json: no such file"),
    ],
)
def test_mistake_is_one_line_on_stderr_and_status_2(
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert weights(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("sim-stream weights: ") and said in err


def test_serving_openviga_without_weights_says_how_to_get_them() -> None:
    command = [sys.executable, "-m", "sim_stream", "serve", "--preset", "openviga"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "sim-stream weights convert" in done.stderr and "--vqgan" in done.stderr


def shipped_copy(folder: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, folder / "weights"))


BROKEN = {
    "deep": lambda text: '{"a":' * 100_000 + text + "}" * 100_000,
    "null": lambda text: text.replace('"files": {', '"files": null, "x": {', 1),
    "huge": lambda text: text.replace('"format": 1', f'"format": {"9" * 5000}', 1),
    "missing": lambda text: text.replace('"sha256"', '"sha255"', 1),
    "wrong": lambda text: text.replace('"config": {', '"config": 7, "x": {', 1),
    "not text": lambda text: text.replace('"preset": "pocket"', '"preset": "\\ud800"', 1),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    "command",
    [
        *(["weights", "inspect"], ["weights", "verify"], ["weights", "convert", "--out", "out"]),
        ["serve", "--device", "cpu", "--weights"],
        ["serve", "--device", "cpu", "--world-model"],
    ],
    ids=" ".join,
)
def test_a_manifest_that_somebody_edited_is_one_line_and_status_2(
    command: list[str],
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = shipped_copy(tmp_path) / "manifest.json"
    path.write_text(BROKEN[how](path.read_text()))
    assert main([*command, "weights"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.isprintable() and said.startswith(f"sim-stream {command[0]}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("subcommand", ["verify", "inspect"])
def test_a_fifo_among_the_weights_is_named_and_not_waited_for(
    subcommand: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if subcommand == "verify":
        path = folder = shipped_copy(tmp_path)
        path = folder / "world_model.safetensors"
        path.unlink()
    else:
        path = folder = tmp_path / "vqgan"
    os.mkfifo(path)
    assert weights(subcommand, folder) == 2
    assert capsys.readouterr().err.strip().endswith(f"{path}: a FIFO, no regular file")


def test_a_path_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights("inspect", "x" * 5000) == 2
    assert "File name too long" in capsys.readouterr().err


def test_names_in_a_file_write_no_lines_and_no_escapes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "layers.0\n\x1b[2Jfake  line\u202e"
    save_file({key: np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    assert weights("inspect", tmp_path / "a.safetensors") == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "layers.0\\n\\x1b[2Jfake  line\\u202e" in out
    save_file({"\x1b[2J\n": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    assert weights("inspect", tmp_path / "a.safetensors") == 2
    assert capsys.readouterr().err.strip().isprintable()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..", "x" * 300, "a/b"])
def test_an_index_names_files_of_its_own_folder_only(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"layers.0.x": np.ones(3, np.float32)}, tmp_path / "outside.safetensors")
    index = tmp_path / "folder" / "m.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": {"layers.0.x": name}}))
    assert weights("inspect", index.parent) == 2
    assert "outside the folder" in capsys.readouterr().err
