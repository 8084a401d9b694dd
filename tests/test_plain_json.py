"""Every JSON that the project writes can be read by others than Python."""

from __future__ import annotations

import ast
import json
import math
import os
from pathlib import Path

import pytest

from sim_stream.plain_json import to_json

ROOT = Path(__file__).resolve().parent.parent
WRITERS = ("sim_stream", "train", "engines", "bridge", "tools", "examples", "tests/perf")


def refuse(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def test_numbers_that_are_not_finite_become_null_at_any_depth() -> None:
    value = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": 1, "d": True, "e": None}
    read = json.loads(to_json(value), parse_constant=refuse)
    assert read == {"a": [1.5, None, [None, {"b": None}]], "c": 1, "d": True, "e": None}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_names_that_are_no_utf8_become_text(ascii_only: bool) -> None:
    name = os.fsdecode(b"caf\xe9\n")
    text = to_json({name: [name, "\ud800", "m\u00fcnchen"]}, ensure_ascii=ascii_only)
    ((key, values),) = json.loads(text.encode()).items()
    assert key == values[0] == "caf\\udce9\n" and values[1:] == ["\\ud800", "m\u00fcnchen"]
    "".join([key, *values]).encode()  # no half of a pair is left


def test_options_are_those_of_the_standard_library() -> None:
    value = {"b": 1, "a": [Path("x")]}
    options = {"indent": 1, "sort_keys": True, "default": str}
    assert to_json(value, **options) == json.dumps(value, **options)  # type: ignore[arg-type]


def test_nothing_else_in_the_project_writes_json() -> None:
    """`json.dump(s)`, or a name that was imported from json, outside of the one writer."""
    found = []
    for folder in WRITERS:
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "plain_json.py":
                found += [f"{path.relative_to(ROOT)}:{n}" for n in writes(path.read_text())]
    assert found == []


def writes(source: str) -> list[int]:
    """Lines that use json's writers."""
    names = ("dump", "dumps", "JSONEncoder")
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "json" and node.attr in names:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "json":
            lines += [node.lineno for alias in node.names if alias.name in names]
    return lines


def test_the_walk_sees_each_way_to_write() -> None:
    assert writes("import json\njson.dumps(1)\n") == [2]
    assert writes("from json import dump\n") == [1]
    assert writes("import json\njson.loads('1')\n") == []
