"""Which modules a peft configuration means: patterns and lists of names, by peft's own rules.

A module is called what peft calls it in its own base: what an adapter's file has behind
`base_model.model.` (`model.layers.0.self_attn.q_proj` in Hugging Face's causal models). The rules
are those of peft 0.21 (`get_pattern_key`, `check_target_module_exists`); tests compare the two.

Patterns are regular expressions in somebody else's file, and such an expression can be made to take
years. Any that can backtrack is therefore matched by another process, which is given some seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sim_stream.errors import CheckpointError
from sim_stream.plain_json import to_json

MAX_PATTERNS, MAX_PATTERN_CHARS = 10_000, 10_000
TIMEOUT_S, MEMORY_BYTES = 10.0, 1 << 29
# Neither repeats nor chooses, so it takes no longer than the name is long.
STRAIGHT = re.compile(r"[\w.\\^$-]*")
# `rank_pattern`, `alpha_pattern`: the end of a name, from a dot or the start on.
ENDING = r"(.*\.)?({})$"
SAVED_WHOLE = r"(^|.*\.){}($|\..*)"
FIRST_INDEX, INDEX_BEHIND = r".*?\.[^.]*\.(?P<idx>\d+)\.", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
# What peft targets in a Llama where a configuration names nothing; its word for all layers.
DEFAULT_TARGETS, ALL_LINEAR = ("q_proj", "v_proj"), "all-linear"
# Reads a form, patterns and names; says of each pattern what `idx` is in the names that it
# matches ("" where it asks for none), null in the others.
MATCHER = """
import json, re, resource, sys
limit, patterns, names, whole = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
rows = []
for pattern in patterns:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        sys.exit(f"{pattern!r} is no regular expression: {error}")
    found = [(compiled.fullmatch if whole else compiled.match)(name) for name in names]
    rows.append([m and m.groupdict().get("idx", "") for m in found])
json.dump(rows, sys.stdout)
"""

Matches = list[dict[str, str]]  # for each pattern: the names that match, and their `idx` or ""


def named_by(patterns: Sequence[str], modules: Sequence[str], option: str) -> dict[str, str]:
    """Module -> the first of these patterns that names it. Raises CheckpointError."""
    found: dict[str, str] = {}
    for pattern, named in zip(patterns, matches(ENDING, patterns, modules, option), strict=True):
        for module in named:
            found.setdefault(module, pattern)
    return found


def idle(patterns: Sequence[str], modules: Sequence[str], option: str) -> list[str]:
    """Patterns that name none of these modules: peft warns of them and goes on."""
    found = matches(ENDING, patterns, modules, option)
    return [pattern for pattern, named in zip(patterns, found, strict=True) if not named]


def targeted(config: Mapping[str, Any], modules: Sequence[str]) -> list[str]:
    """Those of these modules that peft gives a low-rank update. Raises CheckpointError."""
    excluded = _excluded(config, modules)
    found = [module for module in modules if module not in excluded]
    targets = config.get("target_modules")
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return found  # those in the file were linear layers of the base it was trained on
    if isinstance(targets, str) and targets:
        return [*matches("{}", [targets], found, "target_modules", whole=True)[0]]
    named = names(config, "target_modules") or DEFAULT_TARGETS
    outside = _other_layers(config, [m for m in found if m not in named])
    return [m for m in found if _ends(m, named) and m not in outside]


def names(config: Mapping[str, Any], option: str) -> tuple[str, ...]:
    """A list of names, or one name; null, false and [] are none. Raises CheckpointError."""
    value = config.get(option) or ()
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{option} is {config[option]!r}, allowed: names")
    return tuple(value)


def matches(
    form: str, patterns: Sequence[str], modules: Sequence[str], option: str, *, whole: bool = False
) -> Matches:
    """Which modules match each pattern, put into `form`; `whole`: to their end. Raises
    CheckpointError, which names `option`: no regular expression, or one that takes too long."""
    if len(patterns) > MAX_PATTERNS or any(len(p) > MAX_PATTERN_CHARS for p in patterns):
        raise CheckpointError(
            f"{option} has {len(patterns):,} patterns; allowed: {MAX_PATTERNS:,} of "
            f"{MAX_PATTERN_CHARS:,} characters"
        )
    made = [form.format(pattern) for pattern in patterns]
    if not all(map(STRAIGHT.fullmatch, patterns)):
        return _matched_elsewhere(made, modules, option, whole=whole)
    found = []
    for pattern in made:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            said = f"{option}: {pattern!r} is no regular expression: {error}"
            raise CheckpointError(said) from error
        match = compiled.fullmatch if whole else compiled.match
        hits = {module: hit for module in modules if (hit := match(module))}
        found.append({module: hit.groupdict().get("idx", "") for module, hit in hits.items()})
    return found


def _matched_elsewhere(
    patterns: Sequence[str], modules: Sequence[str], option: str, *, whole: bool
) -> Matches:
    try:
        matcher = subprocess.run(
            [sys.executable, "-I", "-S", "-c", MATCHER],
            input=to_json([MEMORY_BYTES, patterns, modules, whole]),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(
            f"{option}: {str(patterns)[:200]} takes longer than {TIMEOUT_S:g} s to match"
        ) from error
    if matcher.returncode:
        said = matcher.stderr.strip().splitlines() or [f"matching ended with {matcher.returncode}"]
        raise CheckpointError(f"{option}: {said[-1][:400]}")
    rows = json.loads(matcher.stdout)
    return [
        {module: idx for module, idx in zip(modules, row, strict=True) if idx is not None}
        for row in rows
    ]


def _excluded(config: Mapping[str, Any], modules: Sequence[str]) -> Collection[str]:
    """Modules that `exclude_modules` names, or that are saved whole."""
    found: set[str] = set()
    if isinstance(excluded := config.get("exclude_modules"), str) and excluded:
        found.update(matches("{}", [excluded], modules, "exclude_modules", whole=True)[0])
    else:
        excluded_names = names(config, "exclude_modules")
        found.update(m for m in modules if _ends(m, excluded_names))
    saved = names(config, "modules_to_save")
    for named in matches(SAVED_WHOLE, saved, modules, "modules_to_save"):
        found.update(named)
    return found


def _other_layers(config: Mapping[str, Any], modules: Sequence[str]) -> Collection[str]:
    """Modules outside `layers_to_transform`."""
    layers = config.get("layers_to_transform")
    if layers is None or layers is False or layers == [] or layers == {}:
        return ()
    layers = layers if isinstance(layers, list) else [layers]
    if not all(type(layer) is int for layer in layers):
        raise CheckpointError(f"layers_to_transform is {layers!r}, allowed: numbers of layers")
    patterns = names(config, "layers_pattern")
    if patterns:
        found = matches(INDEX_BEHIND, patterns, modules, "layers_pattern")
    else:
        found = matches("{}", [FIRST_INDEX], modules, "layers_pattern")
    index: dict[str, str] = {}
    for named in found:
        index = named | index  # the first pattern that matches counts
    return {m for m in modules if not (m in index and int(index[m]) in layers)}


def _ends(module: str, wanted: Collection[str]) -> bool:
    return module in wanted or any(module.endswith(f".{name}") for name in wanted)
