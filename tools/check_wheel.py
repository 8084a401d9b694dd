"""Builds the wheel, looks at what it holds, and tries it in a clean environment.

    .venv/bin/python tools/check_wheel.py

The environment is made beside the wheel, outside the clone, so that nothing of the clone can be
imported by accident. Fails unless ``sim-stream doctor`` says there that the main job can run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
NEEDED = (
    "sim_stream/py.typed",
    *(
        f"sim_stream/assets/{light}.{kind}"
        for light in ("day", "overcast", "dusk", "night")
        for kind in ("mp4", "json")
    ),
    "sim_stream/weights/pocket/manifest.json",
    "sim_stream/view/static/index.html",
)
PIP = ("-m", "pip", "-qq", "--disable-pip-version-check")
LIGHT_IMPORT = (
    "import sim_stream, sys; assert 'torch' not in sys.modules; print(sim_stream.__file__)"
)


def build(folder: Path) -> Path:
    """The wheel, built from a copy: setuptools takes over old files from a build/ that it finds."""
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sim_stream", source / "sim_stream", ignore=skip)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def complaints(names: list[str]) -> list[str]:
    """What is wrong with a wheel that holds these files."""
    found = [f"{name} is missing" for name in NEEDED if name not in names]
    if not any(n.startswith("sim_stream/weights/") and n.endswith(".safetensors") for n in names):
        found.append("no weights (sim_stream/weights/*/*.safetensors)")
    for name in names:
        top = name.split("/")[0]
        if top != "sim_stream" and not top.endswith(".dist-info"):
            found.append(f"{name} does not belong into the wheel")
    return found


def try_it(wheel: Path, folder: Path) -> None:
    """Raises CalledProcessError when a clean environment cannot use the wheel."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, ROOT / "tools" / "install_torch.py"], check=True)
    install = [python, *PIP, "install", "--constraint", CONSTRAINTS]
    subprocess.run([*install, wheel], check=True)
    # Our own variables must not lead the clean environment back into the clone.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    imported = subprocess.run(
        [python, "-c", LIGHT_IMPORT], cwd=folder, env=clean, check=True, capture_output=True
    )
    if str(folder.resolve()) not in str(Path(imported.stdout.decode().strip()).resolve()):
        raise SystemExit(f"wheel: imported {imported.stdout.decode().strip()} instead")
    command = [folder / "venv" / "bin" / "sim-stream", "doctor", "--json"]
    doctor = subprocess.run(
        command, cwd=folder, env=clean, check=False, stdout=subprocess.PIPE, text=True
    )
    report = json.loads(doctor.stdout)
    if doctor.returncode or not report["ok"]:
        raise SystemExit("wheel: doctor says: " + "; ".join(report["problems"]))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sim-stream-wheel-") as name:
        folder = Path(name)
        wheel = build(folder)
        with zipfile.ZipFile(wheel) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        wrong = complaints(names)
        if wrong:
            print("wheel: " + "\nwheel: ".join(wrong), file=sys.stderr)
            return 1
        print(f"wheel: {wheel.name}, {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")
        try_it(wheel, folder)
    print("wheel: a clean environment imports it without torch; doctor is content")
    return 0


if __name__ == "__main__":
    sys.exit(main())
