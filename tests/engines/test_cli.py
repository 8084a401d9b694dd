"""The subcommands as a user types them, over the shipped pocket weights, up to a served demo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import cli
from sim_stream import doctor
from sim_stream.config import POCKET, Action, FrameSize
from sim_stream.console import MISTAKE
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.runtime.engine import ENCODE, FORMS, STEADY
from sim_stream.runtime.engine_manifest import engine_path, read_engine, write
from sim_stream.video import SAMPLE, read_clip

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *map(str, args)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> dict:
    """The JSON of its last line."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pocket_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported, built and verified by the command."""
    folder = tmp_path_factory.mktemp("pocket") / "engines"
    graphs = said(run("engines", "export", "--out", folder, "--parts", "encoder"))
    assert graphs["encoder"]["input"]["dtype"] == "uint8"
    built = said(run("engines", "build", "--out", folder))
    assert set(built) == {form.name for form in FORMS}
    assert built["encoder"]["graph"] == graphs["encoder"]
    verified = said(run("engines", "verify", folder, "--frames", 4))
    assert all(figures["passed"] for figures in verified.values())
    return folder


@pytest.mark.slow
def test_pocket_on_onnx_runtime_predicts_the_same_ids_and_near_equal_pixels(
    pocket_engines: Path,
) -> None:
    frames = read_clip(SAMPLE, frames=2, size=POCKET.vq.frame)
    actions = [Action(speed_mps=8.0, yaw_rate_radps=0.1 * step) for step in range(4)]
    images, ids = [], []
    for engines in ("eager", pocket_engines):
        runtime = Runtime.load("pocket", device="cpu", precision="fp32", engines=engines)
        session = runtime.open_session()
        images.append([session.reset(frames, seed=0).image])
        ids.append([])
        for action in actions:
            images[-1].append(session.step(action).image)
            ids[-1].append(session.latest_ids.tolist())
    assert ids[0] == ids[1]
    difference = np.abs(np.array(images[0], int) - np.array(images[1], int))
    assert difference.max() <= 1  # sums in another order; a value on .5 may round either way
    assert difference.mean() < 1e-3


@pytest.mark.slow
def test_the_demo_runs_on_engines(pocket_engines: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo.mp4"
    summary = said(
        run("sim_stream", "demo", "--engines", pocket_engines, "--frames", 4, "--out", out)
    )
    assert (summary["frames"], summary["dropped"]) == (4, 0)
    assert (
        len(read_clip(out, frames=6, size=FrameSize.square(128))) == 6
    )  # the prompt's two before them


@pytest.mark.slow
def test_the_server_refuses_engines_of_other_weights(
    pocket_engines: Path, pocket_weights: Path
) -> None:
    done = run("sim_stream", "serve", "--weights", pocket_weights, "--engines", pocket_engines)
    assert done.returncode == 2
    assert "weights: the engine's is" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_doctor_says_what_would_be_used_and_why(pocket_engines: Path, tmp_path: Path) -> None:
    used = doctor.examine(engines=str(pocket_engines))["engines"]
    assert used["used"].startswith("onnxruntime 1.") and used["used"].endswith("in fp32")
    assert all(form["verified"] for form in used["forms"].values())
    folder = Path(shutil.copytree(pocket_engines, tmp_path / "engines"))
    path = engine_path(folder, STEADY)
    write(path, replace(read_engine(path), verification={}))
    report = doctor.examine(engines=str(folder))
    assert report["engines"]["used"] is None
    assert any("video_decoder_3_1 not verified" in text for text in report["problems"])


@pytest.mark.slow
def test_profile_reports_every_engine_and_its_layers(pocket_engines: Path) -> None:
    done = run("engines", "profile", pocket_engines, "--rounds", 1, "--layers", 2)
    report = said(done)
    assert set(report["engines"]) == {form.name for form in FORMS}
    for engine in report["engines"].values():
        assert engine["gflop"] > 1 and engine["p50_ms"] > 0
        assert engine["share_of_frame"] == pytest.approx(engine["p50_ms"] / 250, abs=1e-3)
        assert sum(ms for name, ms in engine["layers_ms"].items() if name.startswith("Conv")) > 0
    assert "TFLOP/s" in done.stdout


@pytest.mark.slow
def test_a_missed_threshold_fails_the_command(
    pocket_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    shutil.copytree(pocket_engines / "graphs", folder / "graphs")
    shutil.copy(engine_path(pocket_engines, ENCODE), engine_path(folder, ENCODE))
    from engines import verify

    strict = replace(verify.THRESHOLDS["fp32"], ids_agreement=1.1)
    monkeypatch.setattr(verify, "THRESHOLDS", {"fp32": strict})
    threads = torch.get_num_threads()
    try:
        assert cli.main(["verify", str(folder)]) == cli.MISSED
    finally:
        torch.set_num_threads(threads)
    assert not read_engine(engine_path(folder, ENCODE)).verification["passed"]


@pytest.mark.parametrize("subcommand", ["", "export", "build", "verify", "profile"])
def test_help_names_every_option_without_loading_torch(subcommand: str) -> None:
    code = (
        "import sys\nfrom engines.cli import main\n"
        f"try: main({[*([subcommand] if subcommand else []), '--help']})\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("build", "--out", "x", "--backend", "openvino"), "backend: got openvino; allowed: onnx"),
        (("build", "--out", "x", "--provider", "cuda"), "no CUDAExecutionProvider here"),
        (("build", "--out", "x", "--precision", "bf16"), "precision: got bf16; allowed: fp32"),
        (("build", "--out", "x", "--precision", "fp7"), "precision: got fp7; allowed: fp32, bf16"),
        (("export", "--out", "x", "--parts", "ears"), "parts: got ears; allowed: encoder, video"),
        (("export", "--out", "x", "--preset", "large"), "preset: got large; allowed: openviga, p"),
        (("export", "--out", "x", "--preset", "openviga"), "preset openviga ships no weights"),
        (("verify", "nowhere"), "nowhere: no engines; `python -m engines build` makes them"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    args: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(args) == MISTAKE
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"engines {args[0]}: ") and message in error
    assert list(tmp_path.iterdir()) == []
