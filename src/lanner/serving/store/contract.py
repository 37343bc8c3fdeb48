"""The records of the event store and its limits. Its guarantees are documented in ``relational.Store``."""

from collections.abc import Callable

from msgspec import Struct

from lanner.serving.messages import Item, User

CLOCK_SECONDS = 60.0
"""Maximum clock skew in seconds. A clock set back by less is held until it has caught up; an event whose timestamp is
further ahead is stored with its time of receipt."""
MOST_CHANGES = 100_000
"""Maximum number of changes examined by ``changed_users``; beyond it is cheaper to drop every cached user."""
Closer = Callable[[], None]


class StoredEvent(Struct, frozen=True, gc=False):
    """An event of one user's history. weight: None if not given."""

    sequence: int
    item_id: str
    behaviour: str
    weight: float | None
    timestamp: float


class EventRow(StoredEvent, frozen=True, gc=False):
    """An event as exported."""

    user_id: str


class UserRecord(Struct, frozen=True):
    """All data stored about one user.

    events: oldest first by (timestamp, sequence). user: as last written by ``put_user``; None if never written.
    deleted: those of the user, their friends and other queried ids that were ever passed to ``delete_user``;
    data about them from elsewhere, such as events in a bundle, must be ignored.
    """

    events: list[StoredEvent]
    user: User | None
    deleted: frozenset[str]


class ItemChange(Struct, frozen=True):
    """The latest state of a changed item. item: None if deleted."""

    sequence: int
    id: str
    item: Item | None


class Exposure(Struct, frozen=True):
    """What a user was shown in one arm of an experiment, best item first."""

    experiment: str
    arm: str
    user_id: str
    timestamp: float
    item_ids: list[str]


class StoreStats(Struct, frozen=True):
    """users: known by an event, profile, social edge or exposure. items: put and not deleted since.

    All but bytes_on_disk are of this process since it opened the store; 0 before the first commit.
    commit_milliseconds: duration of the last commit. batches_per_commit: mean number of callers' batches per commit.
    future_timestamps: events whose timestamp was replaced by the time of receipt. unreadable_items: skipped because
    their stored form cannot be parsed.
    """

    events: int
    users: int
    items: int
    bytes_on_disk: int
    commit_milliseconds: float
    batches_per_commit: float
    future_timestamps: int
    unreadable_items: int
