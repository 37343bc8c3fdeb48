"""API keys with roles. A key is shown once; only its SHA-256 is stored.

A key has 256 random bits, so a slow password hash would add nothing.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from lanner.errors import ConfigError, StorageError
from lanner.serving.http.limits import is_loopback

Role = Literal["read", "write", "admin"]
RANK: dict[Role, int] = {"read": 0, "write": 1, "admin": 2}
"""A role includes the rights of those below it."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the key file."""

    name: str
    role: Role
    sha256: str


class KeyFile:
    """The API keys of a server, one JSON object per line, readable by the file's owner only."""

    def __init__(self, path: Path) -> None:
        """Read the key file.

        Raises:
            ConfigError: the file cannot be read, or a line is not a valid key.
        """
        self.path = path
        self._read_at = _changed_at(path)
        self.keys = _read(path)

    def holder(self, authorization: bytes | None) -> Key | None:
        """The key in an Authorization header (``Bearer …``); compares with every key to keep timing constant."""
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given, found = _digest(key.strip()), None
        for one in self.keys:
            if hmac.compare_digest(one.sha256, given):
                found = one
        return found

    def refresh(self) -> None:
        """Reload the file if it has changed; revoked keys become invalid.

        Raises:
            ConfigError: the file is missing or damaged; the previous keys stay valid.
        """
        changed = _changed_at(self.path)
        if changed is None or changed != self._read_at:
            self.keys = _read(self.path)
            self._read_at = changed


def create(path: Path, role: Role, name: str) -> str:
    """Add a key to the file, created if missing, and return the key. It cannot be read again.

    Raises:
        ConfigError: invalid role or name, or the name is taken. StorageError: the file cannot be written.
    """
    if role not in RANK:
        raise ConfigError(f"role: received {role!r}, expected one of {', '.join(RANK)}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: received {name!r}, expected 1 to 64 letters, digits, '.', '_' or '-'")
    key = f"lanner_{secrets.token_urlsafe(32)}"

    def added(keys: list[Key]) -> list[Key]:
        if any(one.name == name for one in keys):
            raise ConfigError(f"a key named '{name}' exists; revoke it first or choose another name")
        return [*keys, Key(name, role, _digest(key.encode()))]

    _change(path, added)
    return key


def revoke(path: Path, name: str) -> None:
    """Remove a key from the file. A file without keys rejects everyone; delete it to allow anonymous access.

    Raises:
        ConfigError: no such key. StorageError: the file cannot be written.
    """

    def removed(keys: list[Key]) -> list[Key]:
        if all(one.name != name for one in keys):
            raise ConfigError(f"no key named '{name}'; known: {', '.join(one.name for one in keys) or 'none'}")
        return [one for one in keys if one.name != name]

    _change(path, removed)


def check_address(host: str, keys: KeyFile | None, open_to_all: bool = False) -> None:
    """Require keys unless the server listens on this machine only.

    Raises:
        ConfigError: no keys, ``host`` is reachable from other machines, and ``open_to_all`` is not set.
    """
    if keys is None and not open_to_all and not is_loopback(host):
        raise ConfigError(
            f"without API keys anyone who can reach {host} could use the server; "
            "create a key, bind to 127.0.0.1, or set open_to_all"
        )


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _read(path: Path) -> list[Key]:
    keys = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: the key file cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        try:
            keys.append(msgspec.json.decode(line, type=Key))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not a valid key ({error}); remove the line") from None
    return keys


def _change(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Rewrite the file. The draft has a fixed name: of two concurrent changes one fails and neither is lost."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        advice = f"another change is in progress; if not, remove {draft}"
        reason = advice if isinstance(error, FileExistsError) else error.strerror
        raise StorageError(f"{path}: cannot be written ({reason})") from None
    try:
        with os.fdopen(file, "wb") as opened:
            keys = change(_read(path) if path.exists() else [])
            opened.write(b"".join(msgspec.json.encode(one) + b"\n" for one in keys))
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from None
        raise
