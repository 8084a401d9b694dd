"""What TensorRT's Python bindings really offer, read from NVIDIA's wheels without TensorRT itself.

    python -m tests.engines.tensorrt_bindings        writes tensorrt_names.json anew

The wheels `tensorrt-*-bindings` are small; the libraries that they call are not, and need a GPU.
So the bindings are imported over empty libraries: their classes and signatures are all there, and
no call into TensorRT is made. Only the names that we use are kept, with their signatures: the
wheels are NVIDIA's and are not committed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

NAMES = Path(__file__).with_name("tensorrt_names.json")
WHEELS = {"10": "tensorrt-cu12-bindings==10.13.3.9", "11": "tensorrt-cu13-bindings==11.4.0.106"}
# What the two modules that call TensorRT use; a name beyond these fails the type check.
USED = {
    "Runtime": ["__init__", "deserialize_cuda_engine"],
    "ICudaEngine": [
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "create_execution_context")
    ],
    "IExecutionContext": [
        *("set_input_shape", "set_tensor_address", "execute_async_v3", "profiler")
    ],
    "ILogger": ["__init__", "log", "Severity", "ERROR", "INTERNAL_ERROR"],
    "IProfiler": ["__init__", "report_layer_time"],
    "IProgressMonitor": ["__init__", "phase_start", "step_complete", "phase_finish"],
    "TensorIOMode": ["INPUT", "OUTPUT"],
    "MemoryPoolType": ["WORKSPACE"],
    "ProfilingVerbosity": ["DETAILED"],
}
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
EMPTY_LIBRARY = "".join(
    f"void *{name}(void) {{ return 0; }}\n"
    for name in (
        *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL"),
        *("createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
        *("createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion"),
        *("getPluginRegistry", "initLibNvInferPlugins"),
    )
)


class NotFetched(Exception):
    """No package index, no wheel for this Python, or no C compiler."""


def fetch(major: str, folder: Path) -> dict[str, str]:
    """Makes `import tensorrt` work over empty libraries; gives the environment to do it in."""
    wheels, site, libraries = folder / "wheels", folder / "site", folder / "libraries"
    download = ["download", "-qq", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels)]
    run_or_skip([sys.executable, "-m", "pip", *download, WHEELS[major]])
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    (site / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    libraries.mkdir()
    (folder / "empty.c").write_text(EMPTY_LIBRARY)
    for name in LIBRARIES:
        file = f"lib{name}.so.{major}"
        out = ["-o", str(libraries / file), str(folder / "empty.c")]
        run_or_skip(["cc", "-shared", "-fPIC", f"-Wl,-soname,{file}", *out])
    paths = os.pathsep.join([str(site), str(NAMES.parents[2])])
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths}


def run_or_skip(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise NotFetched(f"{command[0]} is not here") from error
    except subprocess.TimeoutExpired as error:
        raise NotFetched(f"{command[0]} took longer than 120 s") from error
    except subprocess.CalledProcessError as error:
        raise NotFetched((error.stderr.strip().splitlines() or ["no reason given"])[-1]) from error


def names_of(major: str, folder: Path) -> dict[str, dict[str, list[str]]]:
    """{version: {name: its lines of a stub}} of the bindings of that major version."""
    code = "from tests.engines.tensorrt_bindings import describe; describe()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = fetch(major, folder)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def describe() -> None:
    """Prints what `import tensorrt` offers of USED; run where `fetch` made that possible."""
    import tensorrt as trt

    found = {}
    for cls, members in USED.items():
        for member in members:
            found[f"{cls}.{member}"] = stub_lines(getattr(trt, cls), member)
    print(json.dumps({trt.__version__: found}))


def stub_lines(cls: type, member: str) -> list[str]:
    """A member as it would stand in a stub; no lines where the class has no such member."""
    value = getattr(cls, member, None)
    if value is None:
        return []
    if isinstance(value, property):
        kind = plain(str(value.fget.__doc__).split("->")[1].strip())  # type: ignore[union-attr]
        lines = ["@property", f"def {member}(self) -> {kind}: ..."]
        setter = [f"@{member}.setter", f"def {member}(self, value: {kind}) -> None: ..."]
        return lines + (setter if value.fset else [])
    if isinstance(value, type):
        return [f"class {member}: ..."]
    if not callable(value):
        kind = type(value).__qualname__
        return [f"{member}: {kind}"]
    signatures = re.findall(rf"^(?:\d+\. )?{member}(\(self.*) *$", str(value.__doc__), re.M)
    defs = [f"def {member}{plain(signature)}: ..." for signature in signatures]
    return defs if len(defs) == 1 else [line for d in defs for line in ("@overload", d)]


def plain(signature: str) -> str:
    """pybind11's words for types as a stub writes them; what TensorRT passes to us are numbers."""
    words = {
        r"tensorrt_bindings\.tensorrt\.": "",
        r"typing\.SupportsInt|typing\.SupportsIndex": "int",
        r"typing\.SupportsFloat": "float",
        r"\bbuffer\b|typing_extensions\.Buffer": "bytes",
        r"<[^>]*>": "...",
        r"\(self: \w+": "(self",
    }
    for pattern, word in words.items():
        signature = re.sub(pattern, word, signature)
    return signature.strip()


def as_stub(version: str, names: Mapping[str, Sequence[str]]) -> str:
    """A stub of module `tensorrt` that holds these names and no other."""
    # `ignore-errors` is for the stub itself: pybind11 writes bare `tuple` and the like.
    lines = ["# mypy: ignore-errors", "from typing import overload", "", "__version__: str"]
    lines.append(f"# {version}")
    signatures = " ".join(line for found in names.values() for line in found if "def " in line)
    others = set(re.findall(r"\b[A-Z]\w+", signatures))
    known = {name.split(".")[0] for name in names} | {"None", "Severity"}
    lines += [f"class {name}: ..." for name in sorted(others - known)]
    for cls in dict.fromkeys(name.split(".")[0] for name in names):
        lines.append(f"class {cls}:")
        members = [line for name in names if name.split(".")[0] == cls for line in names[name]]
        lines += [f"    {line}" for line in members] or ["    pass"]
    return "\n".join(lines) + "\n"


def main() -> None:
    names: dict[str, dict[str, list[str]]] = {}
    for major in WHEELS:
        with tempfile.TemporaryDirectory() as folder:
            names |= names_of(major, Path(folder))
    NAMES.write_text(json.dumps(names, indent=1) + "\n")
    print({version: len(found) for version, found in names.items()})


if __name__ == "__main__":
    main()
