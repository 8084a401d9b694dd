"""CURVE keys as files: a pair is made, written once, and read again; what a client has of them.

The files are zmq.auth's certificates: a line ``public-key = "..."`` and, in a secret file, a line
``secret-key = "..."``, each key as 40 characters of Z85 (ZeroMQ RFC 32).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.plain_file import read_plain

PUBLIC_SUFFIX, SECRET_SUFFIX = ".pub", ".secret"
# A file of keys is read whole: an allow-list of ten thousand clients fits.
FILE_BYTES = 1 << 20
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_LINE = re.compile(r"""^\s*(public|secret)-key\s*=\s*["']?([^"'\s]*)["']?\s*$""", re.MULTILINE)


@dataclass(frozen=True)
class KeyPair:
    """Both as Z85. The secret one is never shown."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class ClientKeys:
    """What a client needs to talk to a guarded server: its own pair, the server's public key."""

    pair: KeyPair
    server_public: str

    @classmethod
    def load(cls, key: str | Path | None, server_key: str | Path | None) -> ClientKeys | None:
        """From the client's secret and the server's public key file; None without both.

        Raises InvalidInput.
        """
        if key is None and server_key is None:
            return None
        if key is None:
            raise InvalidInput("key", "none", "the client's secret key file, beside server_key")
        if server_key is None:
            raise InvalidInput("server_key", "none", "the server's public key file, beside key")
        require_curve()
        pair = read_pair("key", Path(key))
        return cls(pair, read_public("server_key", Path(server_key)))

    def secure(self, socket: Any) -> None:
        """Before the socket (of zmq or zmq.asyncio) connects."""
        socket.curve_serverkey = self.server_public.encode()
        socket.curve_publickey = self.pair.public.encode()
        socket.curve_secretkey = self.pair.secret.encode()


def require_curve() -> None:
    """Raises Unavailable where libzmq was built without encryption."""
    if not zmq.has("curve"):
        raise Unavailable("this libzmq was built without CURVE; pyzmq's wheels have it")


def write_pair(stem: Path) -> tuple[KeyPair, Path, Path]:
    """A new pair with its files STEM.pub and STEM.secret (mode 0600).

    Raises InvalidInput where one of them is there already, or the folder is not.
    """
    require_curve()
    public_path = stem.with_name(stem.name + PUBLIC_SUFFIX)
    secret_path = stem.with_name(stem.name + SECRET_SUFFIX)
    for path in (secret_path, public_path):
        if path.exists():
            raise InvalidInput("name", stem, f"another one: {path} exists, and keys are never lost")
    pair = KeyPair(*(key.decode("ascii") for key in zmq.curve_keypair()))
    public_line = f'curve\n    public-key = "{pair.public}"\n'
    secret_line = f'    secret-key = "{pair.secret}"\n'
    secret_note = (
        "# sim-stream: a SECRET key. It stays on its owner's machine, readable by nobody else.\n"
    )
    public_note = "# sim-stream: a public key. Give it to those who are to know this one.\n"
    _write_new(secret_path, secret_note + public_line + secret_line, mode=0o600)
    try:
        _write_new(public_path, public_note + public_line, mode=0o644)
    except InvalidInput:
        secret_path.unlink()
        raise
    return pair, public_path, secret_path


def read_pair(field_name: str, path: Path) -> KeyPair:
    """The pair in a secret file that nobody else can read. Raises InvalidInput."""
    found, mode = _read(field_name, path)
    if len(found["public"]) != 1 or len(found["secret"]) != 1:
        raise InvalidInput(field_name, path, "a file of one key pair, made by `sim-stream keygen`")
    if os.name == "posix" and mode & 0o077:
        raise InvalidInput(field_name, f"{path} of mode {mode:04o}", f"0600; chmod 600 {path}")
    pair = KeyPair(found["public"][0], found["secret"][0])
    if zmq.curve_public(pair.secret.encode()).decode() != pair.public:
        raise InvalidInput(field_name, path, "a public key that belongs to the secret one")
    return pair


def read_public(field_name: str, path: Path) -> str:
    """The one public key in a file. Raises InvalidInput."""
    keys = read_publics(field_name, path)
    if len(keys) != 1:
        raise InvalidInput(field_name, f"{path} with {len(keys)} public keys", "a file with one")
    return keys[0]


def read_publics(field_name: str, path: Path) -> list[str]:
    """All public keys in a file; a secret has no business there. Raises InvalidInput."""
    found, _ = _read(field_name, path)
    if found["secret"]:
        raise InvalidInput(
            field_name, f"{path}, which holds a secret key", f"public keys (*{PUBLIC_SUFFIX}) only"
        )
    return found["public"]


def _read(field_name: str, path: Path) -> tuple[dict[str, list[str]], int]:
    """The keys by kind, and the file's permissions."""
    try:
        content, status = read_plain(field_name, path, limit=FILE_BYTES)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(field_name, path, f"a key file ({error})") from error
    found: dict[str, list[str]] = {"public": [], "secret": []}
    for kind, key in _LINE.findall(text):
        if not _KEY.fullmatch(key):  # not shown: it may be a mistyped secret
            raise InvalidInput(field_name, path, f"{kind}-key: 40 characters of Z85")
        found[kind].append(key)
    return found, status.st_mode & 0o777


def _write_new(path: Path, text: str, *, mode: int) -> None:
    """Raises InvalidInput; leaves no file behind then."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InvalidInput(
            "name", path, f"a new file in a folder that is there ({error})"
        ) from error
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise InvalidInput("name", path, f"a folder that takes files ({error})") from error
