"""Errors say what came, and reach another process, a copy or a log as they are."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import inspect
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sim_stream.errors import ConnectionLost, InvalidInput, SimStreamError
from sim_stream.video import read_clip
from sim_stream.wire.messages import ErrorCode

# What constructors of ours ask for, by the name of the argument.
ARGUMENTS = {
    "field": "speed",
    "given": 3.5,
    "allowed": "0 or more",
    "code": ErrorCode.LIMIT,
    "message": "too many",
    "retryable": True,
    "committed_step": 7,
    "endpoint": "tcp://127.0.0.1:5555",
    "timeout_s": 2.0,
    "hint": "it sleeps",
    "offset": 12,
    "number": 15,
}
ROOT = Path(__file__).parents[1]


def classes() -> list[tuple[str, str, list[str]]]:
    """Every class of ours: its module, its name and its bases', read without importing anything."""
    found = []
    for package in ("sim_stream", "train", "engines", "bridge"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                    found.append((module, node.name, bases))
    return found


def errors_of_ours() -> list[type[BaseException]]:
    known = {name for name, value in vars(builtins).items() if is_error(value)}
    ours: set[tuple[str, str]] = set()
    found, grown = classes(), True
    while grown:
        before = len(ours)
        ours |= {(module, name) for module, name, bases in found if known & {*bases}}
        known |= {name for _, name in ours}
        grown = len(ours) > before
    return [getattr(importlib.import_module(module), name) for module, name in sorted(ours)]


def is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


OURS = errors_of_ours()


def made(kind: type[BaseException]) -> BaseException:
    if not inspect.isfunction(kind.__init__):  # Python's own
        return kind("it went wrong")
    parameters = [*inspect.signature(kind.__init__).parameters.values()][1:]
    by_name = {one.name: ARGUMENTS[one.name] for one in parameters if one.kind is one.KEYWORD_ONLY}
    in_order = [ARGUMENTS[one.name] for one in parameters if one.kind is not one.KEYWORD_ONLY]
    return kind(*in_order, **by_name)


def assert_same(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert (str(one), one.args, vars(one)) == (str(other), other.args, vars(other))


def test_the_walk_finds_the_tree_and_what_stands_beside_it():
    names = {kind.__name__ for kind in OURS}
    assert {"InvalidInput", "ConnectionLost", "Refusal", "Fault", "PolicyFailed"} <= names


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_comes_back_from_a_pickle_and_a_copy_as_it_was(kind, protocol):
    error = made(kind)
    error.add_note("in the second of three files")
    assert_same(pickle.loads(pickle.dumps(error, protocol)), error)
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_an_error_made_of_an_error_or_of_its_text_says_the_same(kind):
    error = made(kind)
    assert str(kind(error)) == str(kind(str(error))) == str(error)
    if issubclass(kind, SimStreamError):
        assert_same(kind(error), error)
    for attribute in ("field", "given", "allowed", "code", "retryable", "committed_step"):
        if hasattr(kind, attribute):
            getattr(kind(str(error)), attribute)


class Stubborn:
    def __str__(self) -> str:
        return "stubborn"

    def __reduce__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("given", [threading.Lock(), lambda: 1, Stubborn(), (i for i in ())])
def test_what_cannot_be_pickled_goes_as_its_text_and_stays_itself_in_a_copy(given):
    error = InvalidInput("thing", given, "another")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.field, back.allowed) == (str(error), "thing", "another")
    assert back.given == str(given)
    assert copy.copy(error).given is given
    assert str(copy.deepcopy(error)) == str(error)


def test_an_argument_that_cannot_be_pickled_goes_as_its_text():
    back = pickle.loads(pickle.dumps(SimStreamError("held by", threading.Lock())))
    assert back.args[0] == "held by" and "lock" in back.args[1]


def test_a_copy_of_what_was_given_is_deep_where_that_is_asked():
    given = [1, [2]]
    error = InvalidInput("list", given, "none")
    assert copy.copy(error).given is given
    assert copy.deepcopy(error).given == given and copy.deepcopy(error).given[1] is not given[1]


def test_a_pool_of_processes_raises_what_its_workers_raised(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool, pytest.raises(InvalidInput, match=r"none\.mp4") as caught:
        pool.map(read_clip, [tmp_path / "none.mp4"])
    assert caught.value.field == "video"
    with (
        ProcessPoolExecutor(1, mp_context=context) as executor,
        pytest.raises(InvalidInput, match=r"none\.mp4") as caught,
    ):
        executor.submit(read_clip, tmp_path / "none.mp4").result()
    assert caught.value.field == "video"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (8, "8"),
        (8.0, "8.0"),
        (None, "None"),
        (False, "False"),
        (float("nan"), "nan"),
        ("8.0", "'8.0'"),
        ("False", "'False'"),
        ("", "''"),
        (" jacobi", "' jacobi'"),
        ("jacobi", "jacobi"),
        ("3 frames", "3 frames"),
        (np.float32(8), "8.0 (numpy.float32)"),
        (np.bool_(False), "False (numpy.bool)"),
        (np.array(8.0), "8.0 (numpy.ndarray)"),
        (torch.tensor(8), "tensor(8)"),
        (Decimal("8"), "8 (decimal.Decimal)"),
        (Fraction(8), "8 (fractions.Fraction)"),
        (b"8", "b'8'"),
        ((8, 3), "(8, 3)"),
        pytest.param(10**400, "an integer of 1329 bits", id="long"),
        pytest.param(-(10**5000), "an integer of 16610 bits", id="longer than Python prints"),
    ],
)
def test_a_message_shows_the_type_where_the_text_alone_would_mislead(given, said):
    assert str(InvalidInput("speed", given, "less")) == f"speed: got {said}; allowed: less"


def test_a_value_that_cannot_be_printed_is_named_by_its_type():
    class Mute:
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert "Mute; allowed" in str(InvalidInput("thing", Mute(), "another"))


def test_a_lost_connection_keeps_its_hint_and_its_numbers():
    error = ConnectionLost("tcp://127.0.0.1:1", 3.0, hint="it sleeps")
    back = pickle.loads(pickle.dumps(error))
    assert (back.code, back.retryable, back.committed_step) == ("CONNECTION_LOST", True, -1)
    assert str(back).endswith("within 3 s: it sleeps")
