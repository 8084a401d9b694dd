"""How large a recording may be that somebody else has made.

Reading one takes memory and time by what it claims of itself. These bounds lie far beyond what any
recorder here writes and far below what hurts; docs/recording.md names them. Knows no files.
"""

from __future__ import annotations

from typing import TypeAlias

from sim_stream.errors import InvalidInput

# [H, W, 3] of a frame.
Shape: TypeAlias = tuple[int, int, int]

LINE_BYTES = 2**20
LINES = 2**20  # of a session with all that it goes on from: three days at 4 fps
# What lines hold for good beyond the first SMALL_BYTES of each: prompts' hashes, texts.
KEPT_BYTES = 128 * 2**20
SMALL_BYTES = 1024
FRAME_PIXELS = 2048 * 2048
PROMPT_BYTES = 64 * 2**20  # pixels of the frames that go in at once
ARRAYS_BYTES = 64 * 2**20  # of one request's other arrays, unpacked
# Of an MCAP file: one record and one chunk's content, and what all chunks together may grow to.
RECORD_BYTES = 128 * 2**20
GROWTH = 64
GROWN_BYTES = 64 * 2**20


class Budget:
    """What is left of LINES and KEPT_BYTES while a session's recordings are read."""

    def __init__(self) -> None:
        self._lines = LINES
        self._bytes = KEPT_BYTES

    def take(self, size: int) -> None:
        """A line that keeps that many bytes for good. Raises InvalidInput."""
        self._lines -= 1
        self._bytes -= max(0, size - SMALL_BYTES)
        if self._lines < 0:
            raise InvalidInput("recording", f"more than {LINES} lines", f"{LINES} lines at most")
        if self._bytes < 0:
            allowed = f"{KEPT_BYTES >> 20} MiB of them at most"
            raise InvalidInput("recording", "too many texts, inputs and hashes", allowed)


def frame_shape(claimed: tuple[int, ...]) -> Shape:
    """Raises InvalidInput."""
    height, width, channels = claimed
    if channels != 3 or not (height > 0 < width) or height * width > FRAME_PIXELS:
        raise InvalidInput(
            "recording",
            f"frames of {height}x{width}x{channels}",
            f"height x width x 3, up to {FRAME_PIXELS} pixels",
        )
    return height, width, channels


def require_prompt(shape: Shape, count: int) -> None:
    """Raises InvalidInput for a prompt without frames, or of more than PROMPT_BYTES."""
    height, width, channels = shape
    most = PROMPT_BYTES // (height * width * channels)
    if not 1 <= count <= most:
        raise InvalidInput("recording", f"a prompt of {count} frames", f"1..{most} frames")
