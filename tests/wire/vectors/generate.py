"""Writes the test vectors of protocol v2, twice: to read (JSON, parts in hex) and as msgpack.

    python -m tests.wire.vectors.generate

The files are committed, so that a change of the wire format shows as a change of them. The C++
client's tests read ``v2.msgpack``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from sim_stream.wire.messages import VERSION
from tests.wire.vectors import broken, checked, refused, valid

FOLDER = Path(__file__).parent
JSON = FOLDER / "v2.json"
MSGPACK = FOLDER / "v2.msgpack"


def vectors() -> dict[str, Any]:
    """Everything that the files hold, parts as bytes."""
    return {
        "protocol": VERSION,
        "requests": [vars(vector) for vector in valid.requests()],
        "replies": [vars(vector) for vector in valid.replies()],
        "refused_requests": [vars(vector) for vector in refused.requests()],
        "refused_replies": [vars(vector) for vector in broken.replies()],
        "checked_values": [vars(vector) for vector in checked.checked()],
    }


def to_json(everything: dict[str, Any]) -> str:
    readable: dict[str, Any] = {
        kind: value if kind == "protocol" else [_with_hex(vector) for vector in value]
        for kind, value in everything.items()
    }
    return json.dumps(readable, indent=1, ensure_ascii=False) + "\n"


def _with_hex(vector: dict[str, Any]) -> dict[str, Any]:
    return vector | {"parts": [part.hex() for part in vector["parts"]]}


if __name__ == "__main__":
    everything = vectors()
    JSON.write_text(to_json(everything), encoding="utf-8")
    MSGPACK.write_bytes(msgspec.msgpack.encode(everything))
    print(f"{JSON.name}, {MSGPACK.name}: {sum(len(v) for v in list(everything.values())[1:])}")
