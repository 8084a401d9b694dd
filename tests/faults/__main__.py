"""``python -m tests.faults``: runs the faults and prints a line for each; the docstring of the
package says what they are. Exit status 0 when none failed, 1 when one did, 2 for a mistake.
"""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from sim_stream.plain_json import to_json
from tests.faults.catalogue import FAULTS
from tests.faults.registry import Fault, Outcome, run_fault

SURVIVED, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
WIDTH = 110
NAME_WIDTH, STATE_WIDTH, TIME_WIDTH = 34, 9, 7


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    if args.list:
        for fault in FAULTS:
            print(f"{fault.name}: {fault.holds}")
        return SURVIVED
    chosen = [fault for fault in FAULTS if not args.only or any(o in fault.name for o in args.only)]
    if not chosen:
        print(f"--only: got {args.only}; allowed: a part of a name in --list", file=sys.stderr)
        return MISTAKE
    signal.signal(signal.SIGTERM, _interrupt)  # so that it cleans up as Ctrl-C does
    try:
        outcomes = run_all(chosen, args.seed, args.cases)
    except KeyboardInterrupt:
        print("interrupted; all processes ended", file=sys.stderr)
        return INTERRUPTED
    if args.json is not None:
        write_json(args.json, outcomes, args.seed)
    print(summary(outcomes))
    return FAILED if any(outcome.state == "failed" for outcome in outcomes) else SURVIVED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Breaks clients, servers, network and disk for real; checks what must hold.",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="those whose name holds this; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="name them, and what must hold")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: %(default)s)")
    parser.add_argument("--cases", type=int, metavar="N", help="files of each kind to mutate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there, too")
    return parser


def run_all(faults: Sequence[Fault], seed: int, cases: int | None) -> list[Outcome]:
    print(f"{len(faults)} faults, seed {seed}")
    print(_row("fault", "state", "seconds", "figures"))
    outcomes = []
    for number, fault in enumerate(faults, 1):
        _progress(f"[{number}/{len(faults)}] {fault.name} ...")
        outcome = run_fault(fault, seed, cases)
        _progress("")
        print(describe(outcome), flush=True)
        outcomes.append(outcome)
    return outcomes


def describe(outcome: Outcome) -> str:
    """Its line of the table, the figures wrapped below one another."""
    figures = "; ".join(f"{name}: {value}" for name, value in outcome.figures.items())
    return _row(outcome.name, outcome.state, f"{outcome.seconds:.1f}", outcome.why or figures)


def summary(outcomes: Sequence[Outcome]) -> str:
    """What could not be run, and last what was survived."""
    states = [outcome.state for outcome in outcomes]
    not_run = [f"{o.name} ({o.why})" for o in outcomes if o.state == "not run"]
    lines = [f"{len(not_run)} not run: {'; '.join(not_run)}"] if not_run else []
    lines.append(f"{states.count('survived')} survived, {states.count('failed')} failed")
    return "\n".join(lines)


def write_json(path: Path, outcomes: Sequence[Outcome], seed: int) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    content = {"seed": seed, "outcomes": [asdict(outcome) for outcome in outcomes]}
    partial.write_text(to_json(content, indent=1) + "\n")
    partial.replace(path)


def _row(name: str, state: str, seconds: str, text: str) -> str:
    indent = NAME_WIDTH + STATE_WIDTH + TIME_WIDTH + 3
    wrapped = textwrap.wrap(text, WIDTH - indent) or [""]
    first = f"{name:<{NAME_WIDTH}} {state:<{STATE_WIDTH}} {seconds:>{TIME_WIDTH}} "
    return first + ("\n" + " " * indent).join(wrapped)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
