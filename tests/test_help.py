"""Every verb of every command, and every benchmark, imports and answers --help."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

COMMANDS = ("sim_stream.cli", "engines.cli", "train.cli", "bridge.__main__")
BENCHMARKS = sorted(path for path in (Path(__file__).parent / "perf").glob("*.py"))
VERB = re.compile(r"^ {4}([a-z][\w-]*)", re.MULTILINE)  # as argparse lists them


@pytest.fixture
def help_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    def ask(module: str, *verbs: str) -> str:
        monkeypatch.setattr(sys, "argv", [module, *verbs, "--help"])
        with pytest.raises(SystemExit) as ended:
            import_module(module).main()
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        assert said.out.startswith("usage: ")
        return said.out

    return ask


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_answers_help(command: str, help_of: Callable[..., str]) -> None:
    def answered(*verbs: str) -> Iterator[str]:
        for verb in VERB.findall(help_of(command, *verbs).partition("options:")[0]):
            yield verb
            yield from answered(*verbs, verb)

    assert len(list(answered())) >= (1 if command.startswith("bridge") else 4)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_imports_and_answers_help(path: Path, help_of: Callable[..., str]) -> None:
    module = f"tests.perf.{path.stem}"
    import_module(module)
    if "__main__" in path.read_text():  # else it is what the others share
        help_of(module)
