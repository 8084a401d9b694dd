"""Every subcommand of every command, and every benchmark, imports and answers --help."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

COMMANDS = ("sim_stream.cli", "engines.cli", "train.cli", "bridge.__main__")
BENCHMARKS = sorted(path for path in (Path(__file__).parent / "perf").glob("*.py"))
SUBCOMMAND = re.compile(r"^ {4}([a-z][\w-]*)", re.MULTILINE)  # as argparse lists them


@pytest.fixture
def help_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    def ask(module: str, *subcommands: str) -> str:
        monkeypatch.setattr(sys, "argv", [module, *subcommands, "--help"])
        with pytest.raises(SystemExit) as ended:
            import_module(module).main()
        said = capsys.readouterr()
        assert (ended.value.code, said.err) == (0, "")
        assert said.out.startswith("usage: ")
        return said.out

    return ask


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_answers_help(command: str, help_of: Callable[..., str]) -> None:
    def answered(*subcommands: str) -> Iterator[str]:
        for subcommand in SUBCOMMAND.findall(
            help_of(command, *subcommands).partition("options:")[0]
        ):
            yield subcommand
            yield from answered(*subcommands, subcommand)

    assert len(list(answered())) >= (1 if command.startswith("bridge") else 4)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_imports_and_answers_help(path: Path, help_of: Callable[..., str]) -> None:
    module = f"tests.perf.{path.stem}"
    import_module(module)
    if "__main__" in path.read_text():  # else it is what the others share
        help_of(module)
