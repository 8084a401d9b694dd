"""bridge/PROTOCOL.md names everything that the messages have, and nothing that they lack."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from sim_stream import spec
from sim_stream.wire import framing, messages

PAGE = (Path(__file__).parents[2] / "bridge" / "PROTOCOL.md").read_text(encoding="utf-8")
DESCRIPTION, PLANNED = PAGE.split("## Not in this version")
STRUCTS = [
    value
    for value in {**vars(spec), **vars(messages)}.values()
    if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_and_type_is_described(struct):
    named = set(re.findall(r"`([a-z_0-9]+)`", DESCRIPTION))
    missing = {field.name for field in msgspec.structs.fields(struct)} - named
    assert not missing
    tag = struct.__struct_config__.tag
    if issubclass(struct, spec.Field):
        assert tag == "Field" or f'`"{tag}"`' in DESCRIPTION
    elif tag not in (None, struct.__name__):  # else no message, or one's base
        assert re.search(rf"(### |-> |\*\*){tag}\b", DESCRIPTION)


def test_table_of_codes_is_the_code_s():
    rows = re.findall(r"^\| ([A-Z_]+) \|.*\| (yes|no)\b[^|]*\|$", DESCRIPTION, re.MULTILINE)
    assert dict(rows) == {
        code.value: "yes" if code in messages.RETRYABLE else "no" for code in messages.ErrorCode
    }


def test_limits_are_the_code_s():
    assert f"| header | {framing.HEADER_BYTES:,} bytes |" in DESCRIPTION
    assert f"| parts after the header | {framing.PARTS} |" in DESCRIPTION
    assert f"major version: {messages.VERSION}" in DESCRIPTION


def test_what_is_planned_is_not_in_the_messages():
    fields = {field.name for struct in STRUCTS for field in msgspec.structs.fields(struct)}
    assert not fields & {"observed", "rev"}
    assert "observed" in PLANNED
