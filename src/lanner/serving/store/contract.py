"""What every event store must do, whatever holds its bytes.

Every method may be called from any thread, and may raise, besides what it names itself::

    StoreUnavailableError  the store is gone, locked, full or behind; the same call may succeed later
    StorageError           the store may not be written (read-only, no permission)
    ConfigError            the store was closed

All that changes takes a number from one rising sequence; whoever has seen a number sees no smaller one appear later.
Times are seconds since 1970.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from msgspec import Struct

from lanner.serving.messages import Changed, Event, EventsAnswer, Item, User

FUTURE_SECONDS = 60.0
"""An event that claims to be further ahead of its receipt is stored with the time of its receipt."""
MOST_CHANGES = 100_000
"""Changes that ``changed_users`` looks through; after more it is cheaper to drop every cached user."""


class StoredEvent(Struct, frozen=True, gc=False):
    """An event of one user's history. weight: None where the caller gave none."""

    sequence: int
    item_id: str
    behaviour: str
    weight: float | None
    timestamp: float


class EventRow(Struct, frozen=True, gc=False):
    """An event as it is exported."""

    sequence: int
    user_id: str
    item_id: str
    behaviour: str
    weight: float | None
    timestamp: float


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

    The last three are of this process since it opened the store; commit_milliseconds and batches_per_commit are 0
    before the first commit.
    """

    events: int
    users: int
    items: int
    bytes_on_disk: int
    commit_milliseconds: float
    """How long the last commit took."""
    batches_per_commit: float
    """How many callers' batches one commit has carried, on average."""
    future_timestamps: int
    """Events whose own time was replaced by that of their receipt."""


class Store(ABC):
    """Events, live items, users and exposures of all servers that share one store."""

    def append(self, events: Sequence[Event], received: float) -> EventsAnswer:
        """Store events; they are on disk when this returns. Arguments and errors as ``appending``."""
        return self.appending(events, received).result()

    @abstractmethod
    def appending(self, events: Sequence[Event], received: float) -> "Future[EventsAnswer]":
        """Store events without waiting for it; they are on disk once there is a result. A batch is stored whole or not
        at all.

        received: their time where they have none of their own, or one more than ``FUTURE_SECONDS`` later. A clock set
        back does not reorder: within a process ``received`` counts as no earlier than it was before.

        Raises, or has the future raise:
            StoreUnavailableError: also at once where too many events wait to be written. The batch may have been
                stored nevertheless if the connection broke: send it again with the same keys.
            DataError: an id, behaviour, weight or time that cannot be stored (NUL, lone surrogate, not finite).
        """

    @abstractmethod
    def histories(self, user_ids: Sequence[str], limit: int) -> list[list[StoredEvent]]:
        """The newest ``limit`` events of each user, oldest first by (timestamp, sequence); unknown users have none.

        Raises:
            ConfigError: ``limit`` below 1.
        """

    @abstractmethod
    def put_item(self, id: str, item: Item) -> Changed:
        """Write an item over what stood under its id. Errors as ``append``."""

    @abstractmethod
    def delete_item(self, id: str) -> Changed:
        """Delete an item; a tombstone stays in ``item_changes``, also for an id that was never put."""

    @abstractmethod
    def item_changes(self, after: int) -> list[ItemChange]:
        """Items put or deleted after that sequence number, each in its latest state, oldest change first."""

    @abstractmethod
    def put_user(self, id: str, user: User) -> Changed:
        """Write profile and ties over what stood there; a tie given twice counts once. Errors as ``append``."""

    @abstractmethod
    def user(self, id: str) -> User | None:
        """What ``put_user`` wrote last; None where it wrote nothing."""

    @abstractmethod
    def forget_user(self, id: str) -> Changed:
        """Remove every trace of a person: events, profile, ties from and to them, exposures, the id itself.

        A salted digest stays, see ``is_forgotten``.

        When this returns the database files no longer hold the id's bytes either. Takes as long as copying the table
        of users (about 0.1 s for 20,000).

        Raises:
            StoreUnavailableError: also where the person is removed but another process still reads old pages of the
                files; asked again, this finishes the removal.
        """

    @abstractmethod
    def is_forgotten(self, id: str) -> bool:
        """Whether ``forget_user`` was ever asked for this id: what else is known of the person must be passed over.

        A salted digest of the id tells; whoever has the store and guesses an id can check the guess, no more.
        """

    @abstractmethod
    def changed_users(self, after: int) -> tuple[int, list[str] | None]:
        """The sequence number now, and ids with new events or a new profile after that number, in no order.

        None instead of ids: drop every cached user. Somebody was forgotten, of whom no id is left to name; or more
        than ``MOST_CHANGES`` happened; or ``after`` is of another store.
        """

    @abstractmethod
    def expose(self, rows: Sequence[Exposure]) -> None:
        """Append to the log of what was shown; on disk when this returns. Errors as ``append``."""

    @abstractmethod
    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """What was shown in one experiment, in the order in which it was logged, in bounded memory."""

    @abstractmethod
    def compact(self, keep_days: float | None, keep_per_user: int | None) -> int:
        """Delete events older than ``keep_days`` and all but the newest ``keep_per_user`` of each user (None: keep).

        What was shown longer ago than ``keep_days`` goes, too. Appends go on meanwhile. Returns how many events were
        deleted. An event sent again under a deleted event's key is new.

        Raises:
            ConfigError: ``keep_days`` below 0, ``keep_per_user`` below 1.
        """

    @abstractmethod
    def events(self) -> Iterator[list[EventRow]]:
        """All events by rising sequence number, in batches of bounded size, without holding up writers."""

    @abstractmethod
    def stats(self) -> StoreStats:
        """Counts and figures. Counting reads an index of every event: for a page, not for each request."""

    @abstractmethod
    def check(self) -> None:
        """Return if the store answers; a single read of one row."""

    @abstractmethod
    def close(self) -> None:
        """Commit what waits, then let go of files, connections and threads. A second time does nothing."""
