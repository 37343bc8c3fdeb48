"""Files and folders that appear whole or not at all, and bytes that are checked before they are used."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import BundleError, StorageError

_KINDS = {"BOOL": np.dtype(np.bool_)} | {
    f"{letter.upper()}{8 * size}": np.dtype(f"{letter}{size}")
    for letter, sizes in (("f", (2, 4, 8)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)))
    for size in sizes
}
"""Kinds of numbers, as a safetensors file names them, that NumPy knows."""
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class FolderKind:
    """What tells a folder that Lanner wrote from one that merely looks like it.

    what: as errors name it. marker: its file that describes the others, a JSON object. names: of the files that such a
    folder may hold, from that object; a KeyError, TypeError or AttributeError says that it is none of Lanner's.
    """

    what: str
    marker: str
    names: Callable[[dict[str, Any]], Collection[str]]


def check_replaceable(path: Path, kind: FolderKind) -> None:
    """Raises ``StorageError`` unless nothing stands at ``path``, an empty folder, or one of ``kind`` and no more."""
    if not (path.exists() or path.is_symlink()):
        return
    advice = "give another folder or remove it"
    if path.is_file():
        raise StorageError(f"{path}: is a file, not a folder; {advice}")
    try:
        entries = {entry.name: entry.is_file() for entry in path.iterdir()}
        if not entries:
            return
        told = json.loads((path / kind.marker).read_bytes())
        names = set(kind.names(told)) if isinstance(told, dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = None
    if names is None or kind.marker not in names:
        raise StorageError(f"{path}: holds something else than {kind.what}; {advice}")
    foreign = sorted(name for name, is_file in entries.items() if name not in names or not is_file)
    if foreign:
        listed = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise StorageError(f"{path}: holds files that are not part of {kind.what}: {listed}; {advice}")


def write_folder(path: Path, contents: Mapping[str, bytes], *, kind: FolderKind) -> None:
    """Write files into a new folder beside ``path``, then give it that name; what stood there goes last.

    Args:
        path: the folder's final name.
        contents: bytes by file name.
        kind: what may be replaced, see ``check_replaceable``.

    Raises:
        StorageError: the disk refused, or something else stands at ``path``; nothing half-written is left, and what
            stood at ``path`` still stands.
    """
    path = path.absolute()
    check_replaceable(path, kind)
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}")
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
    """Write a file beside ``path`` and give it that name, whatever stood there.

    Raises:
        StorageError: the disk refused; what stood at ``path`` still stands.
    """
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        _write_through(draft, content)
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        draft.unlink(missing_ok=True)


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
        raise BundleError(f"{path}: cannot be read ({error.strerror}); write the bundle anew") from None
    if digest(content) != expected:
        raise BundleError(f"{path}: damaged (its checksum differs from the manifest's); write the bundle anew")
    return content


def check_file(path: Path, expected: str, what: str = "bundle") -> None:
    """As ``read_checked``, but without holding the file. what: is to be written anew where it is damaged."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); write the {what} anew") from None
    if found != expected:
        raise BundleError(f"{path}: damaged (its checksum differs from the manifest's); write the {what} anew")


def mapped_arrays(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, by name, where they lie: processes share what they read of them.

    The library that reads the format copies. To write to an array would change neither the file nor what others see.

    Raises:
        BundleError: as ``read_checked``.
    """
    check_file(path, expected)
    with path.open("rb") as file:
        content = mmap(file.fileno(), 0, access=ACCESS_COPY)
    begins = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    told: dict[str, dict[str, Any]] = json.loads(content[_LENGTH_BYTES:begins])
    return {
        name: np.frombuffer(
            content, _KINDS[one["dtype"]], math.prod(one["shape"]), begins + one["data_offsets"][0]
        ).reshape(one["shape"])
        for name, one in told.items()
    }


def _write_through(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(draft: Path, path: Path) -> None:
    """A folder cannot be renamed over a full one, so the old one steps aside for a moment, and back if need be."""
    aside = path.with_name(f".{path.name}.replaced-{os.getpid()}")
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
