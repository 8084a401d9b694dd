"""What an MCAP recording's messages are: topics, and the JSON schemas that Foxglove reads.

Foxglove takes a plain subset of JSON Schema: one type a field, no unions, no null, no references
(its ``parseJsonSchema``). So the lines' schemas say what a field is where it is not null, and a
union of requests has all their fields. Knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

import msgspec
from msgspec import Struct

from sim_stream.recording.lines import AnyLine, Line

FRAMES = "/frames"
PROMPTS = "/prompt"
ARRAYS = "/arrays"
LINES = "/session/"  # and the line's kind

IMAGE_SCHEMA = "foxglove.CompressedImage"


class Time(Struct, frozen=True, kw_only=True):
    sec: int
    nsec: int


class CompressedImage(Struct, frozen=True, kw_only=True):
    """Foxglove's well-known schema of that name; JSON has ``data`` in base64."""

    timestamp: Time
    frame_id: str
    data: bytes
    format: str


class StoredArray(Struct, frozen=True, kw_only=True):
    """An array of a request, zlib-compressed; JSON has ``data`` in base64."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes


def topic_of(kind: type[Line]) -> str:
    return f"{LINES}{kind.__struct_config__.tag}"


def line_schemas() -> dict[str, tuple[str, bytes]]:
    """Topic -> name and JSON schema of each kind of line."""
    return {
        topic_of(kind): (f"sim_stream.{kind.__name__}", msgspec.json.encode(_schema(kind)))
        for kind in get_args(AnyLine)
    }


def array_schema() -> bytes:
    return msgspec.json.encode(_schema(StoredArray))


def image_schema() -> bytes:
    """With the title by which Foxglove knows a time."""
    schema = _schema(CompressedImage)
    schema["properties"]["timestamp"]["title"] = "time"
    return msgspec.json.encode(schema)


def _schema(kind: type[Struct]) -> dict[str, Any]:
    (schema,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")
    return _plain(schema, MappingProxyType(definitions)) | {"title": kind.__name__}


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The same in Foxglove's subset."""
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"]], definitions)
    if "anyOf" in schema:
        given = [_plain(one, definitions) for one in schema["anyOf"] if one.get("type") != "null"]
        properties = {
            name: one for kind in given for name, one in kind.get("properties", {}).items()
        }
        return {"type": "object", "properties": properties} if properties else given[0]
    if "enum" in schema:
        return {"type": "integer" if isinstance(schema["enum"][0], int) else "string"}
    plain: dict[str, Any] = {"type": schema["type"]}
    if "contentEncoding" in schema:
        plain["contentEncoding"] = schema["contentEncoding"]
    if plain["type"] == "object":
        properties = schema.get("properties", {})
        plain["properties"] = {name: _plain(one, definitions) for name, one in properties.items()}
    if plain["type"] == "array":
        items = schema["items"] or schema["prefixItems"][0]  # of a tuple: all alike here
        plain["items"] = _plain(items, definitions)
    return plain
