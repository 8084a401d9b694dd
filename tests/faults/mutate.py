"""Mutations of a file's content: of its bytes, of its JSON, of its words. Knows no format else.

All chance comes from one generator, so equal seeds give equal files.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

SIZES = (0, 1, 2, 7, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
LONG = "x" * 70_000
# As JSON: what no encoder of ours writes is put in as text (see `dumped`).
RAW = {
    "@deep": "[" * 500 + "]" * 500,
    "@deeper": '{"a":' * 100_000 + "0" + "}" * 100_000,
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@exponent": "1e999",
    "@digits": "9" * 6000,
    "@half": '"\\ud800"',
    "@escape": '"\\u001b[2J\\n\\u202ex"',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", LONG, [], {}, [[]], {"": {}}, [None], [1, "x"], {"a": None}),
    *(0, -1, 1, 0.5, -0.0, 1e308, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**70)),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "http:localhost:9?x",
        "pipe:0",
        "\x00",
        "%s{}",
        *RAW,
    ),
)
TOKENS = re.compile(rb"-?\d+(\.\d+)?|[A-Za-z_]\w*|[^\w\s]")
WORDS = (b"", b"0", b"-1", b"9" * 30, b"null", b"x" * 5000, b'"', b"\\", b"\0", b"\n", b"\x1b[2J")
FLATTEST = 2000  # nodes of a tree that are looked at


class Mutator:
    """`others`: files to splice with."""

    def __init__(self, chance: random.Random, others: list[bytes]) -> None:
        self._random, self._others = chance, others

    def heads(self) -> bool:
        """Whether a file's header is the target this time."""
        return self._random.random() < 0.8

    def of_bytes(self, data: bytes) -> bytes:
        """Flips, cuts, repeats, splices, zeros, and numbers where a length may stand."""
        made = bytearray(data)
        for _ in range(self._random.choice((1, 1, 1, 2, 6))):
            self._random.choice(self._edits())(made)
        return bytes(made)

    def of_json(self, data: bytes) -> bytes:
        """Other values in the tree, keys more or fewer; now and then the text itself."""
        if self._random.random() < 0.15:
            return self.of_bytes(data)
        if self._random.random() < 0.1:
            return self.of_words(data)
        tree = [json.loads(data)]
        for _ in range(self._random.choice((1, 1, 1, 2, 4))):
            self._change(tree)
        return dumped(tree[0]) if tree else b""

    def of_json_lines(self, data: bytes) -> bytes:
        """One line's JSON, or the lines' order."""
        lines = data.splitlines(keepends=True)
        at, other = (self._random.randrange(len(lines)) for _ in range(2))
        match self._random.randrange(10):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                return self.of_bytes(data)
            case _:
                lines[at] = self.of_json(lines[at]).replace(b"\n", b" ") + b"\n"
        return b"".join(lines)

    def of_words(self, data: bytes) -> bytes:
        """A word or number replaced, repeated or taken away."""
        found = list(TOKENS.finditer(data))
        if not found or self._random.random() < 0.2:
            return self.of_bytes(data)
        token = self._random.choice(found)
        word = self._random.choice((*WORDS, token[0] * 2, self._random.choice(found)[0]))
        return data[: token.start()] + word + data[token.end() :]

    def _edits(self) -> tuple[Callable[[bytearray], None], ...]:
        return (self._flip, self._flip, self._cut, self._zero, self._splice, self._length)

    def _place(self, made: bytearray) -> int:
        """Headers are at the start and at the end of most files."""
        whole = len(made) + 1
        if self._random.random() < 0.5:
            return self._random.randrange(min(whole, 300))
        return self._random.randrange(whole)

    def _flip(self, made: bytearray) -> None:
        at = self._place(made)
        made[at : at + 1] = self._random.randbytes(1)

    def _cut(self, made: bytearray) -> None:
        at = self._place(made)
        if self._random.random() < 0.5:
            del made[at:]
        else:
            del made[at : at + self._random.randint(1, 64)]

    def _zero(self, made: bytearray) -> None:
        at = self._place(made)
        length = self._random.choice((1, 4, 16, 512, 4096))
        made[at : at + length] = bytes(len(made[at : at + length]))

    def _splice(self, made: bytearray) -> None:
        at, other = self._place(made), self._random.choice(self._others)
        start = self._random.randrange(len(other) + 1)
        made[at:at] = other[start : start + self._random.randint(1, 2000)]

    def _length(self, made: bytearray) -> None:
        at, size = self._place(made), self._random.choice((1, 2, 4, 8))
        value = self._random.choice((*SIZES, 2**62, 2**64 - 1)) % 2 ** (8 * size)
        if at + size <= len(made):
            made[at : at + size] = value.to_bytes(size, self._random.choice(("big", "little")))

    def _change(self, tree: list[Any]) -> None:
        """Somewhere in it; `tree` is the list that holds the root."""
        if not tree:
            return
        places = [(tree, 0), *_places(tree[0])]
        # The root alone is changed now and then, what lies in it most of the time.
        holder, key = self._random.choice(places if len(places) == 1 else places[1:] + places[:1])
        match self._random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[f"{key}{key}"] = holder[key]
            case 2:
                other, name = self._random.choice(places)
                holder[key] = deepcopy(other[name])
            case 3:
                holder[key] = {"a": holder[key]} if self._random.random() < 0.5 else [holder[key]]
            case _:
                holder[key] = deepcopy(self._random.choice(VALUES))


def _places(root: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of everything below, up to a number."""
    found: list[tuple[Any, Any]] = []
    todo = [root]
    while todo and len(found) < FLATTEST:
        node = todo.pop()
        keys = (
            [*node]
            if isinstance(node, dict)
            else range(len(node))
            if isinstance(node, list)
            else ()
        )
        found += [(node, key) for key in keys]
        todo += [node[key] for key in keys]
    return found


def dumped(tree: Any) -> bytes:
    """As JSON, or what is meant to look like it."""
    text = json.dumps(tree, indent=1)
    for mark, raw in RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text.encode()


def header_of_safetensors(data: bytes, mutate: Callable[[bytes], bytes]) -> bytes:
    """The JSON header mutated, its length set right."""
    length = int.from_bytes(data[:8], "little")
    header = mutate(data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
