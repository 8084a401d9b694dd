"""CURVE keys of a fault's own: a server's, its clients', and one that it does not know.

Knows no fault.
"""

from __future__ import annotations

from pathlib import Path

from sim_stream.wire.keys import write_pair


class Keys:
    """Files in a folder of the stage."""

    def __init__(self, stage_folder: Path, *, allowed: tuple[str, ...]) -> None:
        self._folder = stage_folder / "keys"
        self.allowed = self._folder / "allowed"
        self.allowed.mkdir(parents=True)
        write_pair(self._folder / "server")
        write_pair(self._folder / "unlisted")
        for name in allowed:
            write_pair(self.allowed / name)

    @property
    def server(self) -> tuple[str | Path, ...]:
        """The server's options."""
        return ("--key", self._folder / "server.secret", "--allow", self.allowed)

    def client(self, name: str) -> dict[str, Path]:
        """The options of a driver that is allowed."""
        return self._options(self.allowed / f"{name}.secret", "server")

    @property
    def unlisted(self) -> dict[str, Path]:
        """Of one that is not."""
        return self._options(self._folder / "unlisted.secret", "server")

    def mistaken(self, name: str) -> dict[str, Path]:
        """Of one that is, and takes the server for another one."""
        return self._options(self.allowed / f"{name}.secret", "unlisted")

    def _options(self, secret: Path, server: str) -> dict[str, Path]:
        return {"secret_key": secret, "server_key": self._folder / f"{server}.pub"}
