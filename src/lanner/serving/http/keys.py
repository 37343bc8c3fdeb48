"""API keys with roles. A key is shown once; only its SHA-256 is stored.

A key is 256 random bits, so there is nothing to guess that a slow hash would protect.
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
"""A role may do what the roles below it may."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file."""

    name: str
    role: Role
    sha256: str


class KeyFile:
    """The keys of a server, one JSON object a line, readable by their owner alone."""

    def __init__(self, path: Path) -> None:
        """Read the keys.

        Raises:
            ConfigError: the file cannot be read, or a line of it is no key.
        """
        self.path = path
        self._read_at = _changed_at(path)
        self.keys = _read(path)

    def holder(self, authorization: bytes | None) -> Key | None:
        """The key that an Authorization header (``Bearer …``) carries; every key is compared, found or not."""
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given, found = _digest(key.strip()), None
        for one in self.keys:
            if hmac.compare_digest(one.sha256, given):
                found = one
        return found

    def refresh(self) -> None:
        """Read the file again if it has changed: a revoked key ends here.

        Raises:
            ConfigError: the file is gone or damaged; the keys stay as they were.
        """
        changed = _changed_at(self.path)
        if changed is None or changed != self._read_at:
            self.keys = _read(self.path)
            self._read_at = changed


def create(path: Path, role: Role, name: str) -> str:
    """Add a key to the file, made where there is none, and return the key: the only time it can be read.

    Raises:
        ConfigError: the role or the name cannot be, or the name is taken. StorageError: the disk refused.
    """
    if role not in RANK:
        raise ConfigError(f"role: received {role!r}, expected one of {', '.join(RANK)}")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: received {name!r}, expected 1 to 64 letters, digits, '.', '_' or '-'")
    key = f"lanner_{secrets.token_urlsafe(32)}"

    def added(keys: list[Key]) -> list[Key]:
        if any(one.name == name for one in keys):
            raise ConfigError(f"a key named '{name}' exists; revoke it first or take another name")
        return [*keys, Key(name, role, _digest(key.encode()))]

    _change(path, added)
    return key


def revoke(path: Path, name: str) -> None:
    """Take a key out of the file. A file without keys lets nobody in; remove it to open the server.

    Raises:
        ConfigError: there is no such key. StorageError: the disk refused.
    """

    def removed(keys: list[Key]) -> list[Key]:
        if all(one.name != name for one in keys):
            raise ConfigError(f"no key is named '{name}'; known: {', '.join(one.name for one in keys) or 'none'}")
        return [one for one in keys if one.name != name]

    _change(path, removed)


def check_address(host: str, keys: KeyFile | None, open_to_all: bool = False) -> None:
    """A server without keys listens on this machine only.

    Raises:
        ConfigError: there are no keys, ``host`` is reachable from elsewhere, and ``open_to_all`` was not given.
    """
    if keys is None and not open_to_all and not is_loopback(host):
        raise ConfigError(
            f"without keys everyone who reaches {host} could use the server; "
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
        raise ConfigError(f"{path}: the keys cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        try:
            keys.append(msgspec.json.decode(line, type=Key))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: is no key ({error}); remove the line") from None
    return keys


def _change(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """The draft's name is fixed, so that of two changes at once one is refused and neither is lost."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        advice = f"another change is under way; if none is, remove {draft}"
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
