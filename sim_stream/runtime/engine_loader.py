"""From what `--engines` names to an EngineSet: a mode of PyTorch, or a folder of built engines.

Every engine of a folder is checked against what it will run with before the first one is loaded. An
engine that was not verified is refused too. Nothing else is ever taken instead.
"""

from __future__ import annotations

from pathlib import Path

from sim_stream.config import TORCH_ENGINES
from sim_stream.errors import EngineError, InvalidInput
from sim_stream.runtime.backends import BACKENDS
from sim_stream.runtime.engine import FORMS, Engine, EngineSet, Form
from sim_stream.runtime.engine_manifest import (
    EngineManifest,
    Host,
    engine_path,
    read_engine,
    refuse_mismatch,
)


def read_folder(folder: Path, host: Host) -> dict[Form, EngineManifest]:
    """The manifests of a folder's engines, one per form, each checked. Raises EngineError."""
    if not folder.is_dir():
        raise InvalidInput("engines", folder, f"{', '.join(TORCH_ENGINES)} or a folder of engines")
    manifests = {}
    for form in FORMS:
        path = engine_path(folder, form)
        manifests[form] = read_engine(path)
        refuse_mismatch(manifests[form], path, form, host)
    return manifests


def load_folder(folder: Path, host: Host) -> EngineSet:
    """A folder's engines, ready to run. Raises EngineError, Unavailable, InvalidInput."""
    manifests = read_folder(folder, host)
    for form, manifest in manifests.items():
        if not manifest.verification.get("passed"):
            raise EngineError(
                f"{engine_path(folder, form)}: "
                + ("failed its verification" if manifest.verification else "was never verified")
                + f"; run: python -m engines verify {folder}"
            )
    engines = {form: load_engine(folder, m, host) for form, m in manifests.items()}
    kinds = sorted({f"{m.backend} {m.backend_version} ({m.provider})" for m in manifests.values()})
    return EngineSet(
        engines,
        description=f"{', '.join(kinds)} from {folder}",
        max_batch=min(m.graph.max_batch for m in manifests.values()),
    )


def load_engine(folder: Path, manifest: EngineManifest, host: Host) -> Engine:
    """One engine that was already checked. Raises EngineError, Unavailable."""
    return BACKENDS[manifest.backend].load(folder / manifest.files[0], manifest, host)
