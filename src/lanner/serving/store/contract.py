"""The records of the event store, and its limits. What it promises is said in ``relational.Store``."""

from collections.abc import Callable

from msgspec import Struct

from lanner.serving.messages import Item, User

CLOCK_SECONDS = 60.0
"""A clock that is set back by more had been wrong; by less, it is held until it has caught up. An event whose own time
is further ahead of its receipt is stored with the time of its receipt."""
MOST_CHANGES = 100_000
"""Changes that ``changed_users`` looks through; after more it is cheaper to drop every cached user."""
Closer = Callable[[], None]


class StoredEvent(Struct, frozen=True, gc=False):
    """An event of one user's history. weight: None where the caller gave none."""

    sequence: int
    item_id: str
    behaviour: str
    weight: float | None
    timestamp: float


class EventRow(StoredEvent, frozen=True, gc=False):
    """An event as it is exported."""

    user_id: str


class UserRecord(Struct, frozen=True):
    """All that a store knows of one user.

    events: oldest first by (timestamp, sequence). user: what ``put_user`` wrote last; None where it wrote nothing.
    deleted: of the user, their ties and the others asked about those that ``delete_user`` was ever called for. What
    else is known of them, such as their events in a bundle, must be passed over.
    """

    events: list[StoredEvent]
    user: User | None
    deleted: frozenset[str]


class ItemChange(Struct, frozen=True):
    """The latest state of an item that was put or deleted. item: None where it was deleted."""

    sequence: int
    id: str
    item: Item | None


class Exposure(Struct, frozen=True):
    """What one user was shown in one arm of an experiment, best item first."""

    experiment: str
    arm: str
    user_id: str
    timestamp: float
    item_ids: list[str]


class StoreStats(Struct, frozen=True):
    """users: known by an event, a profile, a tie or an exposure. items: put and not deleted since.

    The others but bytes_on_disk are of this process since it opened the store; 0 before the first commit.
    commit_milliseconds: how long the last commit took. batches_per_commit: callers' batches in a commit, on average.
    future_timestamps: events whose own time was replaced by that of their receipt. unreadable_items: passed over,
    because their stored form cannot be read.
    """

    events: int
    users: int
    items: int
    bytes_on_disk: int
    commit_milliseconds: float
    batches_per_commit: float
    future_timestamps: int
    unreadable_items: int
