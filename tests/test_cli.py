"""The command as a user runs it: in a process of its own, judged by status, stdout and stderr."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sim_stream
from sim_stream import doctor
from sim_stream.errors import RemoteError
from sim_stream.wire.client.blocking_client import StreamClient

ROOT = Path(__file__).resolve().parent.parent
PROGRESS = " INFO sim_stream.progress: "
COMMAND = (sys.executable, "-m", "sim_stream")
TIMEOUT_S = 120.0  # loading torch on a busy machine


def sim_stream_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def start_server(pocket_weights: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``serve`` with untrained weights; kills what a failed test leaves."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        command = [*COMMAND, "serve", "--weights", str(pocket_weights)]
        command += ["--bind", "tcp://127.0.0.1:0", *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def endpoint_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    word, _, endpoint = process.stdout.readline().strip().partition(" ")
    assert word == "ready", process.communicate()[1]
    return endpoint


def ends_cleanly(process: subprocess.Popen[str]) -> None:
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert [line for line in stderr.splitlines() if PROGRESS not in line] == []


def test_version_and_help_need_neither_torch_nor_zmq() -> None:
    code = (
        "import sys; from sim_stream.cli import build_parser; build_parser().format_help();"
        "print([m for m in ('torch', 'zmq', 'av', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert sim_stream_command("--version").stdout.split() == ["sim-stream", sim_stream.__version__]


@pytest.mark.parametrize(
    "subcommand", ["serve", "view", "demo", "replay", "bench", "keygen", "doctor"]
)
def test_every_verb_explains_itself(subcommand: str) -> None:
    done = sim_stream_command(subcommand, "--help")
    assert done.returncode == 0
    assert f"usage: sim-stream {subcommand}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--preset", "nano"), "preset: got nano; allowed: openviga, pocket"),
        (("serve", "--threads", "0"), "threads: got 0"),
        (("serve", "--metrics", "x"), "metrics: got x; allowed: PORT or HOST:PORT"),
        (("view", "--host", "0.0.0.0"), "host: got 0.0.0.0; allowed: localhost"),
        (("view", "--port", "-1"), "port: got -1"),
        (("view", "--server", "tcp://127.0.0.1:1", "--threads", "2"), "nothing beside --server"),
        (("demo", "--preset", "nano"), "preset: got nano"),
        (("demo", "--frames", "0"), "frames: got 0; allowed: 1 or more"),
        (("demo", "--pace", "-1"), "pace: got -1.0"),
        (("demo", "--video", "none.mp4"), "none.mp4 (does not exist)"),
        (("demo", "--sheet", "demo.mp4"), "another file than --out"),
        (("bench", "--paces", "4,0"), "paces: got 0; allowed: steps a second above 0, or free"),
        (("bench", "--frames", "0"), "frames: got 0"),
        (("bench", "--roofline", "A100"), "roofline: got A100; allowed: H100, H200"),
        (("bench", "--decoding", "jacobi:257"), "decoding.window: got 257; allowed: 1..256"),
        (("bench", "--random-weights", "--weights", "w"), "none beside --random-weights"),
        (("serve", "--random-weights", "--weights", "w"), "none beside --random-weights"),
        (("serve", "--key", "server.secret"), "allow: got none; allowed: a folder or file"),
        (
            ("serve", "--bind", "tcp://0.0.0.0:5555"),
            "others only with CURVE: a key and an allow-list",
        ),
        (("replay", "drive.jsonl", "--key", "me.secret"), "none without --connect"),
    ],
)
def test_mistake_is_one_line_on_stderr_and_status_2(arguments: tuple[str, ...], said: str) -> None:
    done = sim_stream_command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"sim-stream {arguments[0]}: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_port_in_use_is_said(pocket_weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = sim_stream_command("serve", "--weights", pocket_weights, "--bind", address)
    assert done.returncode == 2
    *before, said = done.stderr.splitlines()
    assert said.startswith(f"sim-stream serve: cannot bind {address}: Address already in use")
    assert all(PROGRESS in line for line in before)


def test_server_says_what_it_loaded_and_what_to_do_next(
    start_server: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_server()
    endpoint = endpoint_of(process)
    assert process.stderr is not None
    loaded, ready = (process.stderr.readline() for _ in range(2))
    assert PROGRESS in loaded and "loaded preset pocket (pocket-untrained) on cpu" in loaded
    assert PROGRESS in ready and f"sim-stream view --server {endpoint}" in ready
    process.send_signal(signal.SIGTERM)
    ends_cleanly(process)


def test_server_that_shall_only_say_errors_says_nothing(
    start_server: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_server("--log-level", "error")
    endpoint_of(process)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=TIMEOUT_S)[1] == ""


def test_weights_that_do_not_match_are_refused(pocket_weights: Path, tmp_path: Path) -> None:
    assert (
        "manifest.json: no such file" in sim_stream_command("serve", "--weights", tmp_path).stderr
    )
    changed = shutil.copytree(pocket_weights, tmp_path / "changed")
    with (changed / "world_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    done = sim_stream_command("serve", "--weights", changed)
    assert done.returncode == 2
    assert "SHA-256" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_server_that_still_loads_ends_at_once_without_a_word(
    start_server: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = start_server()
    deadline_s = time.monotonic() + TIMEOUT_S
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout, stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_server_that_still_loads_ends_with_the_program_that_holds_its_stdin(
    start_server: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_server("--until-stdin-closes")
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)  # closes its stdin
    assert (process.returncode, stdout, stderr) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_server_says_where_it_listens_and_ends_cleanly_on_a_signal(
    start_server: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = start_server("--lookahead", "0", "--max-sessions", "3")
    with StreamClient(endpoint_of(process), timeout_s=TIMEOUT_S) as client:
        info = client.info
        assert (info.spec.model_id, info.spec.lookaheads[0]) == ("pocket-untrained", 0)
        assert info.limits.max_sessions == 3
        process.send_signal(number)
        ends_cleanly(process)


def test_server_answers_prometheus_and_logs_json(
    start_server: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_server("--metrics", "0", "--log-format", "json", "--log-level", "info")
    endpoint_of(process)
    assert process.stderr is not None
    while "metrics at" not in (entry := json.loads(process.stderr.readline()))["message"]:
        pass
    assert (entry["logger"], entry["level"]) == ("sim_stream.serve", "info")
    with urllib.request.urlopen(entry["message"].split()[-1], timeout=TIMEOUT_S) as reply:
        assert "sim_stream_sessions 0.0" in reply.read().decode()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert all(json.loads(line)["time"] for line in stderr.splitlines())


def test_server_beyond_loopback_lets_those_in_whose_keys_it_was_given(
    start_server: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    for name in ("server", "me"):
        assert sim_stream_command("keygen", tmp_path / name).returncode == 0
    key, allow = tmp_path / "server.secret", tmp_path / "me.pub"
    process = start_server("--bind", "tcp://0.0.0.0:0", f"--key={key}", f"--allow={allow}")
    endpoint = endpoint_of(process).replace("0.0.0.0", "127.0.0.1")
    mine = {"key": tmp_path / "me.secret", "server_key": tmp_path / "server.pub"}
    with StreamClient(endpoint, timeout_s=TIMEOUT_S, **mine) as client:
        assert client.info.spec.model_id == "pocket-untrained"
    with pytest.raises(RemoteError, match="UNAUTHENTICATED"):
        StreamClient(endpoint, timeout_s=TIMEOUT_S)
    process.send_signal(signal.SIGINT)
    ends_cleanly(process)


def test_server_ends_with_the_program_that_holds_its_stdin(
    start_server: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start_server("--until-stdin-closes")
    endpoint_of(process)
    ends_cleanly(process)  # communicate() closes stdin


def test_doctor_verifies_weights_and_says_how_to_get_what_is_missing(pocket_weights: Path) -> None:
    report = doctor.examine(pocket_weights)
    assert report["weights"]["verified"] and report["weights"]["model_id"] == "pocket-untrained"
    assert report["device"]["auto"] in ("cpu", "cuda")
    assert report["chosen"]["attention"] in ("ONNX Runtime's", "sdpa", "flash")
    assert all(report["versions"].values())
    for accelerator in report["accelerators"].values():
        assert accelerator["installed"] or "NVIDIA GPU" in accelerator["get"]


def test_doctor_names_extras_as_the_package_does(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, distribution, _ in doctor.EXTRAS:
        assert declared["optional-dependencies"][extra][0].startswith(f"{distribution}>=")
    monkeypatch.setattr(doctor, "EXTRAS", (("mcap", "no-such-package", "recordings"),))
    assert doctor.examine()["extras"]["mcap"]["get"] == "pip install 'sim-stream[mcap]'"


def test_doctor_fails_on_weights_that_do_not_match(
    pocket_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = shutil.copytree(pocket_weights, tmp_path / "changed")
    (changed / "vq_model.safetensors").write_bytes(b"")
    assert doctor.run(as_json=False, weights=changed) == 1
    out = capsys.readouterr().out
    assert "PROBLEM" in out and "vq_model.safetensors: SHA-256" in out


def test_doctor_is_content_with_what_the_package_ships() -> None:
    done = sim_stream_command("doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["problems"]) == (0, True, [])
