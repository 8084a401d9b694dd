"""What CARLA's client package really offers, read from the stub file in its own wheel.

    python -m tests.bridge.carla_package        writes carla_names.json anew

The package is small, its server is not, and needs a GPU. So the classes and members that
bridge/carla uses are kept here with their signatures, and our calls are type-checked against them;
the stand-in of the tests has to have the same signatures.
"""

from __future__ import annotations

import ast
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.engines.tensorrt_bindings import run_or_skip

NAMES = Path(__file__).with_name("carla_names.json")
VERSION = "0.9.16"
# What bridge/carla uses; a name beyond these fails the type check.
USED = {
    "Client": [
        *("__init__", "set_timeout", "get_client_version", "get_server_version"),
        *("get_world", "load_world"),
    ],
    "World": [
        *("get_settings", "apply_settings", "get_map", "get_blueprint_library", "get_actors"),
        *("try_spawn_actor", "tick"),
    ],
    "WorldSettings": [
        *("synchronous_mode", "fixed_delta_seconds", "substepping"),
        *("max_substep_delta_time", "max_substeps"),
    ],
    "Map": ["name", "get_spawn_points", "get_waypoint"],
    "Waypoint": [
        *("transform", "lane_width", "lane_id", "lane_type", "next"),
        *("get_left_lane", "get_right_lane"),
    ],
    "LaneType": ["Driving"],
    "BlueprintLibrary": ["find"],
    "ActorBlueprint": ["id", "set_attribute"],
    "ActorList": ["filter", "__iter__"],
    "Actor": [
        *("id", "destroy", "get_transform", "get_velocity", "get_angular_velocity"),
        "set_target_velocity",
    ],
    "Vehicle": ["apply_control"],
    "VehicleControl": ["__init__"],
    "Sensor": ["listen", "stop"],
    "SensorData": ["frame"],
    "Image": ["width", "height", "raw_data"],
    "Transform": ["__init__", "location", "rotation", "get_forward_vector"],
    "Vector3D": ["__init__", "x", "y", "z"],
    "Location": ["__init__", "x", "y", "z"],
    "Rotation": ["__init__", "yaw"],
}


def fetch(folder: Path) -> Path:
    """The package, unpacked: a folder for PYTHONPATH. Raises NotFetched."""
    download = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(folder)]
    run_or_skip([*download, "--only-binary", ":all:", f"carla=={VERSION}"])
    site = folder / "site"
    zipfile.ZipFile(next(folder.glob("carla-*.whl"))).extractall(site)
    return site


def names_of(site: Path) -> dict[str, dict[str, list[str]]]:
    """{class: {"class": its head, member: its lines of a stub}} of USED."""
    tree = ast.parse((site / "carla" / "libcarla.pyi").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found: dict[str, dict[str, list[str]]] = {}
    for name, members in USED.items():
        node = classes[name]
        bases = [plain(base) for base in node.bases if plain(base) != "_CarlaEnum"]
        head = f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"
        found[name] = {"class": [head]} | {member: lines_of(node, member) for member in members}
    return found


def lines_of(node: ast.ClassDef, member: str) -> list[str]:
    """A member as the stub has it, without its documentation; no lines if it is not there."""
    lines = []
    for entry in node.body:
        if isinstance(entry, ast.FunctionDef) and entry.name == member:
            lines += [f"@{plain(decorator)}" for decorator in entry.decorator_list]
            returns = f" -> {plain(entry.returns)}" if entry.returns else ""
            lines.append(f"def {member}({plain(entry.args)}){returns}: ...")
        elif isinstance(entry, ast.Assign) and plain(entry.targets[0]) == member:
            lines.append(plain(entry))
    return lines


def plain(node: ast.AST) -> str:
    """Source of a node; the stub's own type variables have names that mangle inside a class."""
    return ast.unparse(node).replace("__Actor", "ActorT").replace("__SensorData", "SensorT")


def as_stub(names: Mapping[str, Mapping[str, list[str]]]) -> str:
    """A stub of module `carla` that holds these names and no other."""
    lines = [
        "# mypy: ignore-errors",  # for the stub itself: it names classes that we do not use
        "from collections.abc import Callable, Iterator, Sequence",
        "from enum import IntFlag",
        "from typing import Any, Generic, Literal, Optional, TypeVar, Union, overload",
        "SensorT = TypeVar('SensorT')",
        "ActorT = TypeVar('ActorT', default='Actor')",
        "class AttachmentType(int):",
        "    Rigid = 0",
    ]
    for members in names.values():
        lines += members["class"]
        body = [line for name, found in members.items() if name != "class" for line in found]
        lines += [f"    {line}" for line in body]
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = names_of(fetch(Path(folder)))
    NAMES.write_text(json.dumps({VERSION: names}, indent=1) + "\n")
    print({name: len(members) - 1 for name, members in names.items()})


if __name__ == "__main__":
    main()
