"""Splits: which events a model may learn from, and on which it is asked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged


@dataclass(frozen=True)
class HeldOut:
    """Users with events that were hidden, and which items may be ranked for them.

    rows: int64 ``[B]`` user rows in the dataset. users: what is known of them at that moment.
    positives: the hidden items, one list a user, none empty. ratings: float32, aligned with ``positives.values``.
    excluded: items never ranked for that user (seen before). candidates: None (every item), an int32 array
    ``[C]`` (the same items for everyone) or a Ragged (a list for each user; positives among them).
    """

    rows: NDArray[np.int64]
    users: UserBatch
    positives: Ragged
    excluded: Ragged
    candidates: NDArray[np.int32] | Ragged | None = None
    ratings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[np.integer]) -> "HeldOut":
        """Some of these users, by their place here, in that order."""
        places = Ragged(self.positives.indptr, np.arange(len(self.positives.values), dtype=np.int32)).take(chosen)
        candidates = self.candidates.take(chosen) if isinstance(self.candidates, Ragged) else self.candidates
        return HeldOut(
            self.rows[chosen],
            self.users.take(chosen),
            self.positives.take(chosen),
            self.excluded.take(chosen),
            candidates,
            None if self.ratings is None else self.ratings[places.values],
        )


@dataclass(frozen=True)
class Split:
    """A dataset cut in three. The test users' histories hold train and validation events.

    Every part keeps all users and items of the whole, so that a row means the same everywhere. ``refit`` holds the
    train and validation events: what a model may be fitted on anew once its settings are chosen. ``labels``: uint8
    ``[E]``, the part of each event of the whole: 0 train, 1 validation, 2 test.
    """

    name: str
    train: Dataset
    refit: Dataset
    validation: HeldOut
    test: HeldOut
    labels: NDArray[np.uint8]
