"""The supervisors' files of docs/deploy start what this version of the command takes."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from sim_stream.cli import build_parser

FOLDER = Path(__file__).parents[1] / "docs" / "deploy"


def check(command: list[str]) -> None:
    """A guarded server that records: what a restart needs."""
    args = build_parser().parse_args(command)
    assert args.subcommand == "serve" and args.record and args.key and args.allow
    assert args.bind == "tcp://0.0.0.0:5555"


def test_unit_starts_a_recording_server_and_restarts_it():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(FOLDER / "sim-stream.service")
    service = unit["Service"]
    program, *command = shlex.split(service["ExecStart"])
    assert program.endswith("/sim-stream")
    check(command)
    assert service["Restart"] == "on-failure" and service["StateDirectory"] == "sim-stream"
    assert "/var/lib/sim-stream/" in service["ExecStart"]


def test_compose_file_starts_a_recording_server_and_restarts_it():
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["sim-stream"]
    check(service["command"])
    assert service["restart"] == "unless-stopped"
    kept = [volume.split(":")[1] for volume in service["volumes"]]
    assert any("/var/lib/sim-stream/recordings".startswith(place) for place in kept)


def test_image_installs_with_the_extras_that_the_command_needs():
    text = (FOLDER / "Dockerfile").read_text()
    assert re.search(r"/src\[metrics\]", text) and 'ENTRYPOINT ["sim-stream"]' in text
