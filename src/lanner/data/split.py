"""Splits: which events a model is trained on, and on which it is evaluated."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged


@dataclass(frozen=True)
class HeldOut:
    """Users with held-out events, and the items that may be ranked for them.

    rows: int64 ``[B]`` user rows in the dataset. users: what is known about them at that time.
    positives: the held-out positive items, one list per user, none empty.
    excluded: items not ranked for that user (seen before, or held out and negative), unless the split excludes nothing.
    candidates: None (every item), an int32 array ``[C]`` (the same items for everyone) or a Ragged (a list for each
    user; positives among them).
    ratings: float32, aligned with ``rated.values``: hidden items that were rated, liked or not; ``rated`` None: the
    positives. items: ids of the item rows, so that no model of other items is evaluated; None: unknown.
    user_ids: ids of all user rows, so that no model is evaluated on events that it was fitted on; None: unknown.
    """

    rows: NDArray[np.int64]
    users: UserBatch
    positives: Ragged
    excluded: Ragged
    candidates: NDArray[np.int32] | Ragged | None = None
    ratings: NDArray[np.float32] | None = None
    rated: Ragged | None = None
    items: IdMap | None = field(default=None, compare=False, repr=False)
    user_ids: IdMap | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rated_items(self) -> Ragged:
        """The items whose ``ratings`` are known."""
        return self.positives if self.rated is None else self.rated

    def take(self, chosen: NDArray[np.integer]) -> "HeldOut":
        """Some of these users, by position, in that order."""
        candidates = self.candidates.take(chosen) if isinstance(self.candidates, Ragged) else self.candidates
        return HeldOut(
            self.rows[chosen],
            self.users.take(chosen),
            self.positives.take(chosen),
            self.excluded.take(chosen),
            candidates,
            None if self.ratings is None else self.ratings[self.rated_items.places(chosen)],
            None if self.rated is None else self.rated.take(chosen),
            self.items,
            self.user_ids,
        )

    def is_of(self, items: IdMap) -> bool:
        """Whether item rows have the same ids as in ``items``, as far as known."""
        return self.items is None or self.items is items or self.items.external == items.external


@dataclass(frozen=True)
class Split:
    """A dataset split in three. The test users' histories hold train and validation events.

    Every part keeps all users and items of the whole, so that a row means the same everywhere. ``refit`` holds the
    train and validation events: what a model may be refitted on once its settings are chosen. ``labels``: uint8
    ``[E]``, the part of each event of the whole: 0 train, 1 validation, 2 test.
    """

    name: str
    train: Dataset
    refit: Dataset
    validation: HeldOut
    test: HeldOut
    labels: NDArray[np.uint8]
