"""Files that appear under their names only when they are whole.

A `staging` folder lies beside them; what was written into it moves out file by file at the end, or
is deleted with it. What an interruption by force leaves is a hidden folder, never a broken file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim_stream.outputs import said_plainly


@contextmanager
def staging(folder: Path, stem: str) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends well.

    Raises Unavailable where the folder cannot be written or the disk is full.
    """
    with said_plainly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{stem}.partial.", dir=folder))
    try:
        with said_plainly(folder):
            yield stage
            for path in sorted(stage.iterdir(), reverse=True):  # external data before its graph
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
