"""What a model is packed with of what it expects: a file of its own, read strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim_stream.errors import InvalidInput
from train.pack import read_expects


def test_the_file_is_what_the_manifest_will_say(tmp_path: Path) -> None:
    values = {"prompt_psnr_min_db": 24.5, "actions": {"speed_mps": "end"}}
    (tmp_path / "e.json").write_text(json.dumps(values))
    assert read_expects(tmp_path / "e.json") == values


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"expects: got .*e\.json: cannot be read: .*; allowed: a JSON file"),
        (b"\xff", "allowed: a JSON file"),
        (b"[" * 10_000, "allowed: a JSON file"),
        (b"[]", "not a JSON object; allowed: a JSON file"),
        (b'{"prompt_psnr_min_db": NaN}', "allowed: a JSON file"),
        (
            b'{"prompt_psnr_min_db": 100}',
            r"prompt_psnr_min_db: got 100; allowed: a number, 0\.\.99",
        ),
        (b'{"camera": {"up_m": 1}}', "CameraPose"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        read_expects(tmp_path / "e.json")


def test_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InvalidInput, match="expects: got"):
            read_expects(path)
