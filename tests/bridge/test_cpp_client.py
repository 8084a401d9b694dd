"""The C++ client builds, warnings as errors, and passes its own tests; only where a compiler is.

`make cpp` also drives the pocket model with it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Kept, so that only the first run has to compile.
BUILD = ROOT / "build" / "pytest"
PACKAGES = "libzmq3-dev cppzmq-dev libmsgpack-cxx-dev doctest-dev"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def configured() -> Path:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs cmake and a C++ compiler")
    python = f"-DSIM_STREAM_PYTHON={sys.executable}"
    done = run("cmake", "-S", ROOT, "-B", BUILD, "-DCMAKE_BUILD_TYPE=Debug", python)
    if done.returncode and PACKAGES in " ".join(done.stderr.split()):  # CMake wraps its lines
        pytest.skip(f"needs {PACKAGES}")
    assert done.returncode == 0, done.stderr
    return BUILD


@pytest.mark.slow
def test_client_builds_and_passes_its_tests(configured: Path) -> None:
    built = run("cmake", "--build", configured, "--parallel", 2)
    assert built.returncode == 0, built.stdout + built.stderr
    tested = run("ctest", "--test-dir", configured, "--output-on-failure", "-R", "vectors|toy_")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "100% tests passed, 0 tests failed out of 13" in tested.stdout


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_missing_packages_are_named_all_at_once(tmp_path: Path) -> None:
    nowhere = [
        f"-DCMAKE_FIND_ROOT_PATH={tmp_path}",
        "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY",
        "-DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY",
    ]
    done = run("cmake", "-S", ROOT, "-B", tmp_path / "build", *nowhere)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert f"apt-get install {PACKAGES}" in said
    for package in PACKAGES.split():
        assert f"{package} (" in said
