"""Installs the pinned torch into the Python that runs this: a CPU build unless there is a GPU.

    python tools/install_torch.py

Linux without an NVIDIA GPU takes ``torch==X+cpu`` from the configured index or, where that has
none, from PyTorch's own CPU index; never a CUDA build, which would bring gigabytes of CUDA
packages. With a GPU, and on macOS, it takes the plain ``torch==X`` of the configured index.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pinned_version(constraints: str) -> str:
    match = re.search(r"^torch==([0-9.]+)\s*$", constraints, re.MULTILINE)
    if match is None:
        raise SystemExit(f"{CONSTRAINTS} pins no torch")
    return match.group(1)


def has_nvidia_gpu() -> bool:
    """Whether the driver lists a GPU; a driver without one counts as none."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU " in listed.stdout


def plan(version: str, *, system: str, gpu: bool) -> list[tuple[str, list[str]]]:
    """Attempts in order: a requirement and the pip options that say where to look for it."""
    if gpu or system == "Darwin":
        return [(f"torch=={version}", [])]
    cpu = f"torch=={version}+cpu"
    return [(cpu, []), (cpu, ["--extra-index-url", CPU_INDEX])]


def is_installed(requirement: str) -> bool:
    """An exact build counts; a CUDA build's own suffix (+cu130) satisfies a plain version."""
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    wanted = requirement.removeprefix("torch==")
    plain = platform.system() != "Darwin" and "+" not in wanted
    if plain:  # a GPU machine must not keep a CPU build
        return installed.split("+")[0] == wanted and not installed.endswith("+cpu")
    return installed == wanted


def install(requirement: str, where: list[str]) -> str | None:
    """None when it worked, else pip's last words."""
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command = [*pip, *where, "--constraint", str(CONSTRAINTS), requirement]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    gpu = has_nvidia_gpu()
    version = pinned_version(CONSTRAINTS.read_text())
    failures = []
    for requirement, where in plan(version, system=platform.system(), gpu=gpu):
        if is_installed(requirement):
            print(f"      {requirement} is there", flush=True)
            return 0
        source = where[-1] if where else "the configured package index"
        print(f"      {requirement} from {source}", flush=True)
        failure = install(requirement, where)
        if failure is None:
            return 0
        failures.append(f"{requirement} from {source}:\n{failure}")
    print("torch could not be installed.\n" + "\n".join(failures), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
