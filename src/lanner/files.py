"""Atomic writes of files and folders, and reads that verify checksums."""

import hashlib
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import BundleError, StorageError

_KINDS = {"BOOL": np.dtype(np.bool_)} | {
    f"{letter.upper()}{8 * size}": np.dtype(f"{letter}{size}")
    for letter, sizes in (("f", (2, 4, 8)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)))
    for size in sizes
}
"""NumPy types by their name in safetensors files."""
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class FolderKind:
    """How to recognise a folder written by Lanner.

    what: as errors name it. marker: its file that describes the others, a JSON object. names: of the files that such a
    folder may hold, from that object; a KeyError, TypeError or AttributeError says that it is none of Lanner's.
    """

    what: str
    marker: str
    names: Callable[[dict[str, Any]], Collection[str]]


def check_replaceable(path: Path, kind: FolderKind) -> None:
    """Raises ``StorageError`` unless ``path`` is free, an empty folder, or a folder of ``kind`` without other files."""
    if not (path.exists() or path.is_symlink()):
        return
    advice = "give another folder or remove it"
    if path.is_file():
        raise StorageError(f"{path}: is a file, not a folder; {advice}")
    try:
        entries = {entry.name: entry.is_file() for entry in path.iterdir()}
        if not entries:
            return
        header = json.loads((path / kind.marker).read_bytes())
        names = set(kind.names(header)) if isinstance(header, dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = None
    if names is None or kind.marker not in names:
        raise StorageError(f"{path}: holds something other than {kind.what}; {advice}")
    foreign = sorted(name for name, is_file in entries.items() if name not in names or not is_file)
    if foreign:
        listed = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise StorageError(f"{path}: holds files that are not part of {kind.what}: {listed}; {advice}")


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest of its parents that exists."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def is_writable(folder: Path) -> bool:
    """Whether files can be written into ``folder``, which need not exist yet."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        return False
    try:
        with TemporaryFile(dir=nearest):  # permissions alone do not tell: root has all of them in /proc
            return True
    except OSError:
        return False


def check_writable(folder: Path, name: str, advice: str = "another") -> None:
    """Raises ``StorageError`` unless ``is_writable``. name: of what would be written there. advice: what to give."""
    if not is_writable(folder):
        raise StorageError(f"{name}: {nearest_existing(folder)} is not a writable folder; give {advice}")


def write_folder(path: Path, contents: Mapping[str, bytes], *, kind: FolderKind) -> None:
    """Write files into a new folder next to ``path``, then rename it; an existing folder is removed last.

    What a process of this machine left beside ``path`` when it was killed is removed first. If it was killed between
    its two renames, the folder that stood at ``path`` is put back.

    Args:
        path: the folder's final name.
        contents: bytes by file name.
        kind: what may be replaced, see ``check_replaceable``.

    Raises:
        StorageError: the disk refused, or something else stands at ``path``; nothing half-written is left, and what
            stood at ``path`` still stands.
    """
    path = path.absolute()
    _clear_leftovers(path)
    check_replaceable(path, kind)
    draft = _beside(path, "partial")
    try:
        draft.mkdir(parents=True)
        for name, content in contents.items():
            _write_through(draft / name, content)
        _swap(draft, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file next to ``path``, then rename it, replacing an existing file.

    Raises:
        StorageError: the disk refused; what stood at ``path`` still stands.
    """
    draft = _beside(path, "partial")
    try:
        _write_through(draft, content)
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        draft.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_checked(path: Path, expected: str) -> bytes:
    """The bytes of a file whose digest is ``expected``.

    Raises:
        BundleError: the file is missing, cannot be read, or differs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); write the bundle again") from None
    if digest(content) != expected:
        raise BundleError(f"{path}: damaged (its checksum differs from the manifest's); write the bundle again")
    return content


def check_file(path: Path, expected: str, what: str = "bundle") -> None:
    """Like ``read_checked``, without keeping the content. what: named in the error as the thing to rewrite."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); write the {what} again") from None
    if found != expected:
        raise BundleError(f"{path}: damaged (its checksum differs from the manifest's); write the {what} again")


def mapped_arrays(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file by name, memory-mapped, so that processes share them.

    The library that reads the format copies. To write to an array would change neither the file nor what others see.

    Raises:
        BundleError: as ``read_checked``.
    """
    check_file(path, expected)
    with path.open("rb") as file:
        content = mmap(file.fileno(), 0, access=ACCESS_COPY)
    begins = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header: dict[str, dict[str, Any]] = json.loads(content[_LENGTH_BYTES:begins])
    return {
        name: np.frombuffer(
            content, _KINDS[one["dtype"]], math.prod(one["shape"]), begins + one["data_offsets"][0]
        ).reshape(one["shape"])
        for name, one in header.items()
    }


def _beside(path: Path, state: str) -> Path:
    """The hidden name that this process uses beside ``path``."""
    # The machine's name: process numbers say nothing about another machine or container that shares the disk.
    return path.with_name(f".{path.name}.{state}-{platform.node()}-{os.getpid()}")


def _clear_leftovers(path: Path) -> None:
    """Remove what killed processes left beside ``path``; put the replaced folder back if nothing stands at ``path``.

    Raises:
        StorageError: it cannot be put back.
    """
    form = re.compile(rf"\.{re.escape(path.name)}\.(partial|replaced)-{re.escape(platform.node())}-(\d+)")
    entries = list(path.parent.iterdir()) if path.parent.is_dir() and os.access(path.parent, os.R_OK) else []
    found = [(one, match) for one in entries if (match := form.fullmatch(one.name))]
    # This process's own number is one of an earlier process: a container that restarts has the same few numbers again.
    if any(pid != os.getpid() and is_running(pid) for pid in (int(match[2]) for _, match in found)):
        return  # a process is writing here now
    asides = [one for one, match in found if match[1] == "replaced"]
    if asides and not (path.exists() or path.is_symlink()):
        newest = max(asides, key=lambda aside: aside.stat().st_mtime)
        try:
            newest.rename(path)
        except OSError as error:
            raise StorageError(
                f"{newest}: the only copy of {path}, cannot be put back ({error.strerror}); rename it by hand"
            ) from error
    for leftover, _ in found:
        shutil.rmtree(leftover, ignore_errors=True)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(draft: Path, path: Path) -> None:
    """A folder cannot be renamed over a non-empty one, so the old one is moved aside, and restored on failure."""
    aside = _beside(path, "replaced")
    stood = path.exists()
    if stood:
        path.rename(aside)
    try:
        draft.rename(path)
    except OSError:
        if stood:
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)
