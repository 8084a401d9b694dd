"""`sim-stream bench` as a user runs it, with random weights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim_stream.bench import page, paper, plots, profile
from sim_stream.bench.options import BenchOptions
from sim_stream.errors import InvalidInput, Unavailable

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 180.0
ALWAYS = {"latency_over_time", "distribution", "breakdown", "roofline"}


def bench(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sim_stream", "bench", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """stdout, stderr and the folder of one small run."""
    folder = tmp_path_factory.mktemp("bench")
    process = bench(
        *("--random-weights", "--paces", "6,free", "--frames", "4", "--warm-up", "1"),
        *("--decoding", "jacobi:16", "--lookahead", "0", "--out", "out", "--json"),
        cwd=folder,
    )
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    return stdout, stderr, folder / "out"


@pytest.fixture
def report(profiled: tuple[str, str, Path]) -> dict:
    return json.loads((profiled[2] / "report.json").read_text())


def test_it_writes_both_files_and_nothing_else(profiled: tuple[str, str, Path]) -> None:
    assert sorted(path.name for path in profiled[2].iterdir()) == ["report.html", "report.json"]


def test_last_line_on_stdout_is_the_report_without_series(
    profiled: tuple[str, str, Path], report: dict
) -> None:
    last = json.loads(profiled[0].splitlines()[-1])
    for run in report["runs"]:
        run.pop("series")
    assert last == report


def test_report_has_every_run_and_stage(report: dict) -> None:
    assert [(run["pace_fps"], run["frames"]) for run in report["runs"]] == [(6.0, 4), (None, 4)]
    for run in report["runs"]:
        stages = {"queue", "world_model", "video_decode", "wire", "end_to_end"}
        assert stages <= set(run["latency_ms"])
        assert {"encode", "prefill", "world_model", "video_decode"} <= set(run["roofline"])
        assert all(line["fraction"] > 0 for line in run["roofline"].values())
    assert report["system"]["lookahead"] == 0
    assert min(report["cold_start"].values()) > 0


def test_random_weights_give_passes_by_window_and_say_why(
    profiled: tuple[str, str, Path], report: dict
) -> None:
    assert [line["window"] for line in report["sweep"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert not any("accepted" in run for run in report["runs"])
    assert profile.MEANINGLESS in report["notes"]
    for text in (profiled[0], (profiled[2] / "report.html").read_text()):
        assert profile.MEANINGLESS in text


def test_table_marks_percentiles_that_the_samples_cannot_support(
    profiled: tuple[str, str, Path],
) -> None:
    (line,) = re.findall(r"paced at 6 fps.*?( end_to_end .*?)\n", profiled[0], re.DOTALL)
    assert line.split()[1] == "4"
    assert line.split()[3:6] == ["-", "-", "-"]


def test_there_is_a_progress_bar(profiled: tuple[str, str, Path]) -> None:
    assert "5/5" in profiled[1] and "9/9" in profiled[1]


def test_page_needs_nothing_from_anywhere(profiled: tuple[str, str, Path]) -> None:
    html = (profiled[2] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert len(sources) == len(ALWAYS | {"sweep"})
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "<script" not in html and "@import" not in html


def test_figures_have_titles_and_axes_with_units(report: dict) -> None:
    assert {name for name, _ in page.figures(report)} == ALWAYS | {"sweep"}
    for run in report["runs"]:
        run["accepted"], run["passes"] = {"1": 3, "4": 2}, {"64": 1, "70": 1}
    for name in page.CAPTIONS:
        figure = getattr(plots, name)(report)
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert all(titles) or figure.get_suptitle()
        labels = [figure.axes[-1].get_xlabel(), *(axes.get_ylabel() for axes in figure.axes)]
        assert any(unit in label for label in labels for unit in ("(ms", "(s)", "(%)")), labels
        assert figure.axes[-1].get_xlabel()


def test_accept_lengths_are_drawn_only_where_there_are_some(report: dict) -> None:
    for accepted in ({"1": 256}, {}):
        for run in report["runs"]:
            run["accepted"], run["passes"] = accepted, accepted
        assert plots.accepted(report) is None


def test_a_users_model_is_profiled_by_its_spec_alone(tmp_path: Path) -> None:
    process = bench(
        *("--model", "tests.wire.toy_worlds:clip_world", "--paces", "20,free"),
        *("--frames", "4", "--warm-up", "1", "--out", "out"),
        cwd=tmp_path,
    )
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert "paced at 20 steps a second: " in stdout
    assert "4 steps of 5 frames after 1 to warm up" in stdout
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (found["model_id"], "calibration" in found) == ("toy-clip", False)
    assert [(run["frames_per_step"], run["roofline"]) for run in found["runs"]] == [(5, {})] * 2
    assert found["runs"][0]["latency_ms"]["motion_to_photon"]["n"] == 4
    assert {name for name, _ in page.figures(found)} == ALWAYS - {"roofline"}


def test_what_counts_presets_is_refused_beside_a_model() -> None:
    with pytest.raises(InvalidInput, match=r"random_weights: .* beside --model"):
        BenchOptions(model="a:b", random_weights=True)
    with pytest.raises(InvalidInput, match=r"roofline: .* beside --model"):
        paper.run(BenchOptions(model="a:b"), "H100")


def test_without_matplotlib_it_refuses_at_once_and_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = BenchOptions(random_weights=True, out=tmp_path / "out")
    with pytest.raises(Unavailable, match=r"pip install 'sim-stream\[bench\]'.*--no-html"):
        profile.run(options)
    assert not options.folder().exists()


def test_without_html_only_json_is_written(report: dict, tmp_path: Path) -> None:
    profile.write(report, tmp_path / "out", html=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_interrupted_it_leaves_neither_server_nor_files_behind(tmp_path: Path) -> None:
    process = bench("--random-weights", "--frames", "500", cwd=tmp_path)
    assert process.stderr is not None
    said = ""
    while "frame/s" not in said:
        said += process.stderr.read(40)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    deadline_s = time.monotonic() + 30
    while Path(f"/proc/{children[0]}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not Path(f"/proc/{children[0]}").exists()
    assert list(tmp_path.iterdir()) == []
