"""The one frozen dataset that every reader gives and every model takes."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.ragged import Ragged

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Interactions:
    """Who did what to which item, one entry an event, ordered in time where time is known.

    user, item: int32 ``[E]`` rows. timestamp: int64 ``[E]`` seconds since 1970, or None.
    weight: float32 ``[E]`` (a rating, a count), or None. behaviour: uint8 ``[E]`` codes into ``behaviours``.
    partition: uint8 ``[E]`` codes into ``partitions`` where the source publishes a split, or None.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | None = None
    weight: NDArray[np.float32] | None = None
    behaviour: NDArray[np.uint8] | None = None
    behaviours: tuple[str, ...] = ("interaction",)
    partition: NDArray[np.uint8] | None = None
    partitions: tuple[str, ...] = ()
    """Names of the published split's parts, of ``train``, ``validation`` and ``test`` those that occur."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, events: NDArray[np.integer] | NDArray[np.bool_]) -> "Interactions":
        """The chosen events, by position or by mask."""

        def pick(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[events]

        return replace(
            self,
            user=self.user[events],
            item=self.item[events],
            timestamp=pick(self.timestamp),
            weight=pick(self.weight),
            behaviour=pick(self.behaviour),
            partition=pick(self.partition),
        )


@dataclass(frozen=True)
class UserBatch:
    """All that is known of B users at the moment they are scored; enough to score a stranger.

    history: items each user interacted with, oldest first where order is known.
    profiles: one text a user, or None. friends: rows of known users tied to each user, or None.
    """

    history: Ragged
    profiles: tuple[str, ...] | None = None
    friends: Ragged | None = None

    def __len__(self) -> int:
        return len(self.history)

    def take(self, rows: NDArray[np.integer]) -> "UserBatch":
        """The chosen users of this batch, in that order."""
        return UserBatch(
            self.history.take(rows),
            None if self.profiles is None else tuple(self.profiles[row] for row in rows),
            None if self.friends is None else self.friends.take(rows),
        )


@dataclass(frozen=True)
class Dataset:
    """Interactions, what is known of items and users, and who is tied to whom."""

    interactions: Interactions
    users: IdMap
    items: IdMap
    item_catalogue: Catalogue
    user_catalogue: Catalogue
    ties: Ragged | None = None
    """Friends of each user, one list a user row; None where the source has no ties."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows set aside while reading, counted by reason."""
    rejected_rows: "pl.DataFrame | None" = field(default=None, compare=False, repr=False)
    """Those rows themselves: reason, file, line (or row of a Parquet file), record (JSON)."""
    has_order: bool = False
    """Whether the order of events inside a user is the order in time."""

    @property
    def num_users(self) -> int:
        return len(self.users)

    @property
    def num_items(self) -> int:
        return len(self.items)

    @cached_property
    def histories(self) -> Ragged:
        """Items of each user, oldest first, one list a user row (repeats kept)."""
        return Ragged.from_pairs(self.interactions.user, self.interactions.item, self.num_users)

    def user_batch(self, rows: NDArray[np.integer] | None = None) -> UserBatch:
        """What this dataset knows of the users ``rows`` (all users where None)."""
        has_profiles = any(self.user_catalogue.texts)
        batch = UserBatch(self.histories, self.user_catalogue.texts if has_profiles else None, self.ties)
        return batch if rows is None else batch.take(rows)

    def with_interactions(self, interactions: Interactions) -> "Dataset":
        """The same users, items, texts and ties with other events."""
        return replace(self, interactions=interactions)
