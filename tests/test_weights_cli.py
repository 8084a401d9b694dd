"""`sim-stream weights` and a server put together from what it made, as a user goes through it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

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
    """The verb in this process: starting torch anew takes longer than the work."""
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
        assert client.info.model_id == "vqgan+world+lora+inflated"
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
