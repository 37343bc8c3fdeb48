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


EVENT_COLUMNS = ("user", "item", "timestamp", "weight", "behaviour", "partition")
"""What is read of each event, as ``Interactions`` calls it."""


@dataclass(frozen=True)
class Interactions:
    """Who did what to which item, one entry an event, ordered in time where time is known.

    user, item: int32 ``[E]`` rows. timestamp: int64 ``[E]`` seconds since 1970, or None.
    weight: float32 ``[E]`` (a rating, a count; NaN where an event has none), or None.
    behaviour: uint8 ``[E]`` codes into ``behaviours``, or None where there is but one.
    partition: uint8 ``[E]`` codes into ``partitions`` where the source publishes a split, or None.
    confidence: float32 ``[E]``, how much the event speaks for its item, 0: not at all (see ``data.feedback``); None:
    1 each.
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
    confidence: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, events: NDArray[np.integer] | NDArray[np.bool_]) -> "Interactions":
        """The chosen events, by position or by mask."""
        columns = {name: column for name, column in vars(self).items() if isinstance(column, np.ndarray)}
        chosen: dict[str, Any] = {name: column[events] for name, column in columns.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class UserBatch:
    """All that is known of B users at the moment they are scored; enough to score an anonymous user.

    history: items that speak for each user, oldest first where order is known. profiles: one text a user, or None.
    friends: rows of known users tied to each user, or None. weights: float32, aligned with ``history.values``, None: 1
    each. seen: all items each user interacted with, negative feedback included; None: the history.
    """

    history: Ragged
    profiles: tuple[str, ...] | None = None
    friends: Ragged | None = None
    weights: NDArray[np.float32] | None = None
    seen: Ragged | None = None

    def __len__(self) -> int:
        return len(self.history)

    def take(self, rows: NDArray[np.integer]) -> "UserBatch":
        """The chosen users of this batch, in that order."""
        return UserBatch(
            self.history.take(rows),
            None if self.profiles is None else tuple(self.profiles[row] for row in rows),
            None if self.friends is None else self.friends.take(rows),
            None if self.weights is None else self.weights[self.history.places(rows)],
            None if self.seen is None else self.seen.take(rows),
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
        """Items that speak for each user, oldest first, one list a user row (repeats kept); no negative feedback."""
        user, item = self.interactions.user, self.interactions.item
        if self._positive is not None:
            user, item = user[self._positive], item[self._positive]
        return Ragged.from_pairs(user, item, self.num_users)

    @cached_property
    def history_weights(self) -> NDArray[np.float32] | None:
        """Confidences aligned with ``histories.values``; None: 1 each."""
        confidence = self.interactions.confidence
        if confidence is None:
            return None
        events = np.arange(len(confidence)) if self._positive is None else self._positive
        weights = confidence[Ragged.from_pairs(self.interactions.user[events], events, self.num_users).values]
        return None if (weights == 1).all() else weights

    @cached_property
    def seen(self) -> Ragged:
        """Items that each user interacted with, negative feedback included: what is not recommended again."""
        if self._positive is None:
            return self.histories
        return Ragged.from_pairs(self.interactions.user, self.interactions.item, self.num_users)

    @cached_property
    def _positive(self) -> NDArray[np.int64] | None:
        """Places of the events that are no negative feedback; None: all."""
        confidence = self.interactions.confidence
        return None if confidence is None or (confidence > 0).all() else np.flatnonzero(confidence > 0)

    def user_batch(self, rows: NDArray[np.integer] | None = None) -> UserBatch:
        """What this dataset knows of the users ``rows`` (all users where None)."""
        has_profiles = any(self.user_catalogue.texts)
        batch = UserBatch(
            self.histories,
            self.user_catalogue.texts if has_profiles else None,
            self.ties,
            self.history_weights,
            None if self._positive is None else self.seen,
        )
        return batch if rows is None else batch.take(rows)

    def with_interactions(self, interactions: Interactions) -> "Dataset":
        """The same users, items, texts and ties with other events."""
        return replace(self, interactions=interactions)
