"""Room for the rows of items that come while serving, in memory that a server and its engine processes share.

All of them write every row to the same place, and what they write is the same, so nobody waits for anybody. Addresses
are taken for as many items as may ever come; the system gives memory to the pages that are written.
"""

import os
from math import prod
from mmap import ALLOCATIONGRANULARITY, mmap
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)
MOST_NEW_ITEMS = 100_000


class Shelf:
    """Arrays by name. Whoever shares a shelf asks for the same ones in the same order."""

    def __init__(self, most_rows: int = MOST_NEW_ITEMS, file: IO[bytes] | None = None) -> None:
        """most_rows: of each array. file: where they lie; None: in memory of this process alone."""
        self.most_rows, self.file = most_rows, file
        self._arrays: dict[str, NDArray[Any]] = {}
        self._end = 0

    def rows(self, name: str, kept_as: type[Number], *shape: int) -> NDArray[Number]:
        """The array of that name, ``[most_rows, …]``, zero where nothing was written. shape: of a row."""
        if name not in self._arrays:
            numbers = self.most_rows * prod(shape)
            pages = -(-max(1, numbers * np.dtype(kept_as).itemsize) // ALLOCATIONGRANULARITY)
            length = pages * ALLOCATIONGRANULARITY
            if self.file is None:
                room = mmap(-1, length)
            else:
                # A byte at the end makes the file long enough, and never shorter, whoever comes first.
                os.pwrite(self.file.fileno(), b"\0", self._end + length - 1)
                room = mmap(self.file.fileno(), length, offset=self._end)
            self._end += length
            self._arrays[name] = np.frombuffer(room, kept_as, numbers).reshape(self.most_rows, *shape)
        return self._arrays[name]


def file_in_memory() -> IO[bytes]:
    """A file for a shelf that processes share; it goes with the last of them. On disk where Linux is not beneath."""
    in_memory = hasattr(os, "memfd_create")
    return os.fdopen(os.memfd_create("lanner-rows"), "r+b") if in_memory else TemporaryFile()
