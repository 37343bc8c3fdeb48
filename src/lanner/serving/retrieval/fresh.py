"""What came to an index since its base was built: vectors that are always searched exactly."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lanner.serving.growing import GrowingRows


@dataclass(frozen=True)
class Fresh:
    """row_F: int64, no two alike. vectors_FD: float32. Neither ever changes.

    What follows the newest shares its memory: an index that copied a thousand vectors for each that came left holes
    of every size behind, 24 KiB an item.
    """

    row_F: NDArray[np.int64]
    vectors_FD: NDArray[np.float32]
    _room: "_Room | None" = None

    @classmethod
    def none(cls, dimensions: int) -> "Fresh":
        """Nothing came yet."""
        return cls(np.empty(0, np.int64), np.empty((0, dimensions), np.float32))

    def __len__(self) -> int:
        return len(self.row_F)

    def followed_by(self, row_n: NDArray[np.int64], vectors_nD: NDArray[np.float32]) -> "Fresh":
        """These and others of other rows. One caller at a time."""
        room = self._room
        if room is None or len(room.rows) != len(self):
            # Nothing came yet, or something else followed these.
            room = _Room(GrowingRows(np.int64), GrowingRows(np.float32, self.vectors_FD.shape[1]))
            room.append(self.row_F, self.vectors_FD)
        room.append(row_n, vectors_nD)
        return Fresh(room.rows.rows, room.vectors.rows, room)

    def holds(self, row_n: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some rows are among these."""
        return np.zeros(len(row_n), np.bool_) if self._ends_before(row_n) else np.isin(row_n, self.row_F)

    def without(self, row_n: NDArray[np.int64]) -> "Fresh":
        """These but for some rows."""
        if self._ends_before(row_n):
            return self
        kept = ~np.isin(self.row_F, row_n)
        return self if kept.all() else Fresh(self.row_F[kept], self.vectors_FD[kept])

    def _ends_before(self, row_n: NDArray[np.int64]) -> bool:
        """Whether the rows lie beyond all of these, as those of a new item do: then nothing need be compared."""
        return not len(self) or not len(row_n) or bool(row_n.min() > self.row_F.max())


class _Room(NamedTuple):
    rows: GrowingRows[np.int64]
    vectors: GrowingRows[np.float32]

    def append(self, row_n: NDArray[np.int64], vectors_nD: NDArray[np.float32]) -> None:
        self.rows.append(row_n)
        self.vectors.append(vectors_nD)
