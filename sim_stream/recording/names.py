"""Which files belong to a recording, wherever it was copied to and whatever it is called now.

Lines name other files as they were called when the lines were written. They are looked for beside
the lines and nowhere else: no path, no link that leads out of the folder. Knows no formats.
"""

from __future__ import annotations

import os
from pathlib import Path

from sim_stream.errors import InvalidInput

NAME_CHARS = 255  # of one that is refused, shown


def beside(lines: Path, named: str, recorded_as: str = "") -> Path:
    """The file that a line of ``lines`` names. Raises InvalidInput.

    ``recorded_as``: what the lines' file was called without its suffix. If it is called otherwise
    now, the file that was renamed along with it goes first: NEW.mkv for OLD.mkv beside NEW.jsonl.
    """
    if named in ("", ".", "..") or Path(named).name != named or not named.isprintable():
        raise InvalidInput(
            "recording", f"a file named {named[:NAME_CHARS]!a}", "names without a folder"
        )
    path = lines.parent / named
    if recorded_as and named.startswith(f"{recorded_as}."):
        along = lines.parent / f"{lines.stem}{named.removeprefix(recorded_as)}"
        path = along if os.path.lexists(along) else path
    require_inside(path)
    return path


def require_inside(path: Path) -> None:
    """No link leads out of the folder. Raises InvalidInput."""
    real, folder = os.path.realpath(path), os.path.realpath(path.parent)
    if os.path.dirname(real) != folder:
        raise InvalidInput("recording", f"{path} (a link to {real})", f"files within {folder}")
