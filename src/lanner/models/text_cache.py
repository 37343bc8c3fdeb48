"""An on-disk cache of text vectors, keyed by the text and the encoder.

One SQLite file per encoder: it is atomic, several processes may use it at once, and reading it runs no code.
The cache only saves time. Whatever goes wrong with the disk, the texts are encoded as if there were no cache.
"""

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

CACHE_VARIABLE = "LANNER_CACHE"
_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
_CHECK_BYTES = 8
_KEYS_PER_QUERY = 500
_LOCK_TIMEOUT_S = 30.0


def cache_directory(chosen: str | Path | None = None) -> Path:
    """The cache folder: the argument, else the variable LANNER_CACHE, else the user's cache directory."""
    return Path(chosen or os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("lanner"))


def text_key(text: str) -> bytes:
    """16-byte content hash of ``text``; lone surrogates are distinguished rather than rejected."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _with_checksum(key: bytes, vector: bytes) -> bytes:
    return hashlib.blake2b(vector, digest_size=_CHECK_BYTES, key=key).digest() + vector


class TextCache:
    """Vectors of one encoder, float32 ``[D]`` each, under the keys of ``text_key``.

    A file that is not a database is replaced with a warning; a damaged row counts as missing; a disk error
    (full, read-only) gives one warning, after which the cache is disabled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._usable = True

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """The cached vectors; damaged ones are left out."""
        return self._attempt(lambda base: self._read(base, keys)) or {}

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store ``vectors`` ``[len(keys), D]``, all of them or (on a disk error) none."""
        rows = [(key, _with_checksum(key, row.tobytes())) for key, row in zip(keys, vectors, strict=True)]
        self._attempt(lambda base: base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows))

    def _read(self, base: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            for key, stored in base.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part):
                vector = stored[_CHECK_BYTES:]
                if _with_checksum(key, vector) == stored:
                    found[key] = np.frombuffer(vector, np.float32)
        return found

    def _attempt(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        if not self._usable:
            return None
        try:
            return self._transact(work)
        except (sqlite3.OperationalError, OSError) as refusal:
            self._usable = False
            warnings.warn(f"text cache {self.path} cannot be used ({refusal}); texts are encoded again", stacklevel=4)
        except sqlite3.DatabaseError as damage:
            warnings.warn(f"text cache {self.path} is damaged ({damage}); it is replaced by a new one", stacklevel=4)
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                self._usable = False
        return None

    def _transact(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT_S)) as base, base:
            base.execute(_SCHEMA)
            return work(base)
