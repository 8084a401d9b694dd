"""Values of fields, and what is said of them: a client says of each the same as the server.

Each is the ``inputs`` of a message, checked as one of the lists of fields of ``spec.SPEC``. Knows
no files; ``generate`` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from sim_stream.errors import InvalidInput
from sim_stream.spec import Inputs, check_values
from tests.wire.vectors.refused import INF, NAN, array
from tests.wire.vectors.spec import SPEC
from tests.wire.vectors.valid import images

SPEED = {"speed_mps": 8.0}
FLOATS = np.zeros((2, 3), "<f4")
BROKEN_FLOATS = np.array([[0, 1, 2], [3, NAN, 5]], "<f4")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """``parts``: a map of ``inputs`` and ``arrays``, then the arrays. ``says`` is empty where the
    values are allowed. ``where``: how the message calls the list ``fields``."""

    name: str
    fields: str
    where: str
    parts: list[bytes]
    says: str


GIVEN: dict[str, dict[str, Inputs]] = {
    "step_inputs": {
        "nothing": {},
        "all that is required": SPEED,
        "more than a clamped number's bounds": {"speed_mps": 1e300, "yaw_rate_radps": -99.0},
        "an array": SPEED | {"semantic": images(4, 4)},
        "an array beyond its values": SPEED | {"semantic": images(4, 4) + np.uint8(1)},
        "an array of another shape": SPEED | {"semantic": images(2, 8)},
        "an array of another rank": SPEED | {"semantic": images(16)},
        "an array of floats": SPEED | {"semantic": np.zeros((4, 4), "<f4")},
        "an array of no elements": SPEED | {"semantic": images(0, 4)},
        "a number for an array": SPEED | {"semantic": 1.0},
        "an array for a number": {"speed_mps": images(1)},
        "a text for a number": {"speed_mps": "fast"},
        "NaN": {"speed_mps": NAN},
        "infinity": {"speed_mps": INF},
        "less than any number": {"speed_mps": -INF},
        "an unknown name": SPEED | {"wings": 2.0},
        "an unknown name, and one that lacks": {"wings": "two"},
    },
    "options": {
        "nothing": {},
        "whole numbers at their bounds": {"top_k": 2.0**31 - 1, "temperature": 10.0},
        "an open bound": {"temperature": 0.0},
        "beyond the open bound": {"temperature": -0.0},
        "beyond a bound": {"temperature": 10.000000000000002},
        "a small number": {"temperature": -1e-05},
        "a smaller one": {"top_k": 0.0001},
        "a large number": {"top_k": 123456789012345.6},
        "a larger one": {"top_k": 9007199254740994.0},
        "one that is written with an exponent": {"top_k": 1e16},
        "one with a long exponent": {"top_k": -1.7976931348623157e308},
        "the least of all": {"temperature": -5e-324},
        "a third": {"top_k": 1 / 3},
        "a choice": {"strategy": "jacobi"},
        "no choice": {"strategy": "Jacobi"},
        "an empty choice": {"strategy": ""},
    },
    "session_inputs": {
        "all": {"heights": FLOATS, "text": "x" * 40, "weather": "rain"},
        "floats that are not finite": {"heights": BROKEN_FLOATS},
        "floats of another shape": {"heights": FLOATS.T.copy()},
        "40 characters beyond ASCII": {"text": "東" * 40},
        "41 characters beyond ASCII": {"text": "東" * 41},
        "a text beyond what is shown": {"text": "x" * 4096},
        "a text with quotes": {"weather": "it's"},
        "a text with both quotes": {"weather": 'it\'s "rain"'},
        "a text of many lines": {"weather": "a\nb\r\tc\\d\x00\x1b\x7f"},
        "a number": {"weather": 1.0},
    },
}


def checked() -> list[Checked]:
    return [
        _checked(f"{fields}: {name}", fields, given)
        for fields, cases in GIVEN.items()
        for name, given in cases.items()
    ]


def _checked(name: str, fields: str, given: Inputs) -> Checked:
    where = "options" if fields == "options" else "inputs"
    says = ""
    try:
        check_values(where, getattr(SPEC, fields), given)
    except InvalidInput as error:
        says = str(error)
    arrays = {key: value for key, value in given.items() if isinstance(value, np.ndarray)}
    header = {
        "inputs": {key: value for key, value in given.items() if key not in arrays},
        "arrays": [
            array(name=key, dtype=one.dtype.str, shape=list(one.shape), nbytes=one.nbytes)
            for key, one in arrays.items()
        ],
    }
    parts = [msgspec.msgpack.encode(header), *(one.tobytes() for one in arrays.values())]
    return Checked(name=name, fields=fields, where=where, parts=parts, says=says)
