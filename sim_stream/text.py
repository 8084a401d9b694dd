"""Text of somebody else's on its way to a terminal, a log or an error: one line, nothing hidden.

A key of a file, a name in a folder or a field of a message may hold line ends, escape codes that
rewrite what stands above, text that runs backwards, or halves of characters that cannot be written
at all. Here each of these becomes its own escape.
"""

from __future__ import annotations

MAX_CHARACTERS = 20_000  # an error names up to fifty faults


def one_line(text: str, *, at_most: int = MAX_CHARACTERS) -> str:
    """`text` with what cannot be seen escaped (`\\n`, `\\x1b`), cut off where it is too long.

    Done twice it is the same as done once, so an error may pass through it again.
    """
    if len(text) > at_most:
        text = f"{text[: at_most - 4]} ..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
