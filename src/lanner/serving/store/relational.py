"""The relational event store: its guarantees, and what SQLite and PostgreSQL share.

Every write transaction first takes sequence numbers from the single row of ``counter``. Other writers wait for that
row, so numbers become visible in the order in which they were taken, across processes and servers.

A user id is stored only in ``people``; other tables reference its number, and indexes hold a salted digest. The digests
of deleted users are kept. Event keys are stored as digests, since they may contain ids.
"""

import contextlib
import logging
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from itertools import chain
from secrets import token_hex
from threading import Lock
from typing import Any, ClassVar, TypeVar

import msgspec

from lanner.errors import ConfigError, DataError
from lanner.serving.messages import Changed, Event, EventsAnswer, Item, User
from lanner.serving.store.connections import QUEUE_LIMIT, Connections
from lanner.serving.store.contract import (
    CLOCK_SECONDS,
    MOST_CHANGES,
    Closer,
    EventRow,
    Exposure,
    ItemChange,
    StoredEvent,
    StoreStats,
    UserRecord,
)

SCHEMA_VERSION = 2
OTHER_SCHEMA = f"a store of schema {{}}, expected {SCHEMA_VERSION}; open it with the version of lanner that created it"
_ROWS_PER_BATCH = 10_000
_ROWS_PER_DELETE = 1_000
"""Rows per transaction: a few milliseconds, during which appends wait."""
_PEOPLE_PER_QUERY = 1_000
_DIGEST_BYTES = 16
_ALL = 2**62
_SECONDS_PER_DAY = 86_400
Value = TypeVar("Value")
_log = logging.getLogger(__name__)

# live: 0 if the id was erased in place. deletions: digest is NULL for deletions of old events.
_TABLES = """
CREATE TABLE counter (sequence BIGINT NOT NULL, salt TEXT NOT NULL);
INSERT INTO counter VALUES (0, '{salt}');
CREATE TABLE people (number {numbered}, live SMALLINT NOT NULL DEFAULT 1, digest {bytes} NOT NULL UNIQUE,
    id TEXT NOT NULL);
CREATE TABLE profiles (person BIGINT NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL, profile TEXT NOT NULL);
CREATE INDEX profiles_sequence ON profiles (sequence);
CREATE TABLE events (sequence {key}, person BIGINT NOT NULL, item TEXT NOT NULL, behaviour TEXT NOT NULL,
    weight DOUBLE PRECISION, timestamp DOUBLE PRECISION NOT NULL, key {bytes});
CREATE INDEX events_history ON events (person, timestamp, sequence);
CREATE UNIQUE INDEX events_key ON events (key) WHERE key IS NOT NULL;
CREATE TABLE ties (person BIGINT NOT NULL, friend BIGINT NOT NULL, position BIGINT NOT NULL,
    PRIMARY KEY (person, friend));
CREATE INDEX ties_friend ON ties (friend);
CREATE TABLE items (id TEXT NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL, body TEXT);
CREATE INDEX items_sequence ON items (sequence);
CREATE TABLE exposures (sequence {key}, experiment TEXT NOT NULL, arm TEXT NOT NULL, person BIGINT NOT NULL,
    timestamp DOUBLE PRECISION NOT NULL, items TEXT NOT NULL);
CREATE INDEX exposures_experiment ON exposures (experiment, sequence);
CREATE INDEX exposures_person ON exposures (person);
CREATE TABLE deletions (sequence {key}, digest {bytes});
CREATE INDEX deletions_digest ON deletions (digest)
"""
_TAKE_SEQUENCE = "UPDATE counter SET sequence = sequence + ? RETURNING sequence{}"
_PERSON = "(SELECT number FROM people WHERE digest = ?)"
_HISTORY = f"""SELECT sequence, item, behaviour, weight, timestamp FROM events
    WHERE person = {_PERSON} ORDER BY timestamp DESC, sequence DESC LIMIT ?"""
_STORED = "SELECT sequence FROM events WHERE sequence >= ? AND sequence < ?"
_SET_PROFILE = f"""INSERT INTO profiles (person, sequence, profile) VALUES ({_PERSON}, ?, ?)
    ON CONFLICT (person) DO UPDATE SET sequence = excluded.sequence, profile = excluded.profile"""
_PROFILE = f"SELECT profile FROM profiles WHERE person = {_PERSON}"
_ITEM_CHANGES = "SELECT sequence, id, body FROM items WHERE sequence > ? ORDER BY sequence"
_NEW_TIE = f"INSERT INTO ties (person, friend, position) VALUES ({_PERSON}, {_PERSON}, ?) ON CONFLICT DO NOTHING"
_TIES = f"""SELECT p.id FROM ties t JOIN people p ON p.number = t.friend WHERE t.person = {_PERSON}
    ORDER BY t.position"""
_NEW_EXPOSURE = f"""INSERT INTO exposures (sequence, experiment, arm, person, timestamp, items)
    VALUES (?, ?, ?, {_PERSON}, ?, ?)"""
_SET_ITEM = """INSERT INTO items (id, sequence, body) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, body = excluded.body"""
_DELETED = "SELECT digest FROM deletions WHERE digest IN ({})"
_CHANGED_USERS = """SELECT id FROM people
    WHERE number IN (SELECT person FROM events WHERE sequence > ? AND sequence <= ?)
    OR number IN (SELECT person FROM profiles WHERE sequence > ? AND sequence <= ?)"""
_EXPOSURES = """SELECT e.sequence, e.experiment, e.arm, p.id, e.timestamp, e.items FROM exposures e
    JOIN people p ON p.number = e.person WHERE e.experiment = ? AND e.sequence > ? ORDER BY e.sequence LIMIT ?"""
_EVENTS = """SELECT e.sequence, e.item, e.behaviour, e.weight, e.timestamp, p.id FROM events e
    JOIN people p ON p.number = e.person WHERE e.sequence > ? ORDER BY e.sequence LIMIT ?"""
_SURPLUS = """SELECT sequence FROM (SELECT sequence,
        row_number() OVER (PARTITION BY person ORDER BY timestamp DESC, sequence DESC) AS place
    FROM events WHERE person > ? AND person <= ?) AS numbered WHERE place > ?"""
_COUNTS = """SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM people WHERE live = 1),
    (SELECT count(*) FROM items WHERE body IS NOT NULL)"""
_TRACES = (
    "DELETE FROM events WHERE person = ?",
    "DELETE FROM profiles WHERE person = ?",
    "DELETE FROM ties WHERE person = ?",
    "DELETE FROM ties WHERE friend = ?",
    "DELETE FROM exposures WHERE person = ?",
)


def tables(numbered: str, key: str, bytes: str) -> list[str]:
    """Statements that create the tables. numbered, key, bytes: types of a generated key, a given key, and bytes."""
    return _TABLES.format(numbered=numbered, key=key, bytes=bytes, salt=token_hex(16)).strip().split(";\n")


class Store(Connections):
    """Events, items, users and exposures, shared by all servers with the same store.

    Every method may be called from any thread, and may raise besides its own errors::

        StoreUnavailableError  the store is missing, locked, full or behind; the same call may succeed later
        StorageError           the store is not writable (read-only, no permission)
        ConfigError            the store was closed

    Every change takes a number from one increasing sequence; once a number is visible, no smaller one appears later.
    Times are Unix timestamps in seconds.
    """

    _erase_person: ClassVar[str]
    """Statement that erases a user's id, given its number."""
    _notify: ClassVar[str] = ""
    """Appended to the statement that takes sequence numbers, to notify other servers on commit."""

    def __init__(self, name: str, queue_limit: int = QUEUE_LIMIT) -> None:
        """Arguments as ``Connections``."""
        super().__init__(name, queue_limit)
        self._salt = bytes.fromhex(self._fetch("SELECT salt FROM counter")[0][0])
        self._lock = Lock()
        self._latest = -math.inf
        self._future_timestamps = 0
        self._unreadable: set[int] = set()

    # --- events ----------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], received: float) -> EventsAnswer:
        """Store events; returns once they are on disk. Arguments and errors as ``appending``."""
        return self.appending(events, received).result()

    def appending(self, events: Sequence[Event], received: float) -> "Future[EventsAnswer]":
        """Store events asynchronously; they are on disk once the future has a result. A batch is stored atomically;
        after cancelling the future it may or may not be stored.

        received: timestamp of events without one, or with one more than ``CLOCK_SECONDS`` later. A clock set back by
        less does not reorder events: within a process ``received`` never decreases.

        Raises, also through the future:
            StoreUnavailableError: also immediately if too many events are queued. If the connection broke, the batch
                may have been stored: retry with the same keys.
            DataError: an invalid id, behaviour, weight or time (NUL, lone surrogate, not finite).
        """
        with self._lock:
            if received < self._latest - CLOCK_SECONDS:
                self._latest = received
            received = self._latest = max(self._latest, received)
            self._future_timestamps += sum(_is_ahead(event, received) for event in events)
        rows = [_event_row(event, received) for event in events]
        return self._writer.begin(self._append, rows, len(rows))

    def _append(self, connection: Any, batches: Sequence[Sequence[tuple[Any, ...]]]) -> list[EventsAnswer]:
        """Store the rows of several callers; returns one answer each."""
        rows = list(chain.from_iterable(batches))
        first = self._allocate_sequence(connection, len(rows))
        people = self._add_people(connection, {row[0] for row in rows})
        numbered = [(first + place, people[id], *row) for place, (id, *row) in enumerate(rows)]
        accepted = self._insert_events(connection, numbered)
        numbers = set(range(first, first + len(rows)))
        if accepted < len(rows):
            numbers = {number for (number,) in self._rows(connection, _STORED, (first, first + len(rows)))}
        answers = []
        for batch in batches:
            new = sum(number in numbers for number in range(first, first + len(batch)))
            answers.append(EventsAnswer(accepted=new, duplicates=len(batch) - new))
            first += len(batch)
        return answers

    def _add_people(self, connection: Any, ids: Collection[str]) -> dict[str, bytes]:
        """Register new users; returns the digest of each id."""
        digests = {id: self._digest(id) for id in ids}
        self._insert_people(connection, [(digest, id) for id, digest in digests.items()])
        return digests

    @abstractmethod
    def _insert_people(self, connection: Any, rows: Sequence[tuple[bytes, str]]) -> None:
        """Store new or previously erased users; a row is digest and id."""

    @abstractmethod
    def _insert_events(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> int:
        """Returns how many were new; a row is sequence, user digest, item, behaviour, weight, timestamp, key digest."""

    def histories(self, user_ids: Sequence[str], limit: int) -> list[list[StoredEvent]]:
        """The newest ``limit`` events of each user, oldest first by (timestamp, sequence); empty for unknown users.

        Raises:
            ConfigError: ``limit`` below 1.
        """
        if limit < 1:
            raise ConfigError(f"limit is {limit}, it must be at least 1")
        return self._read(lambda opened: [self._history(opened, self._digest(id), limit) for id in user_ids])

    def _history(self, connection: Any, digest: bytes, limit: int = _ALL) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in reversed(self._rows(connection, _HISTORY, (digest, limit)))]

    def events(self) -> Iterator[list[EventRow]]:
        """All events by increasing sequence number, in batches of bounded size, without blocking writers."""
        after = 0
        while rows := self._fetch(_EVENTS, (after, _ROWS_PER_BATCH)):
            after = rows[-1][0]
            yield [EventRow(*row) for row in rows]

    def compact(self, keep_days: float | None, keep_per_user: int | None) -> int:
        """Delete events older than ``keep_days`` and all but the newest ``keep_per_user`` of each user (None: keep).

        Exposures older than ``keep_days`` are also deleted. Appends continue meanwhile. Returns the number of deleted
        events; if there are any, ``changed_users`` reports that all users may have changed. Keys of deleted events are
        forgotten.

        Raises:
            ConfigError: ``keep_days`` below 0, ``keep_per_user`` below 1.
        """
        if keep_days is not None and not keep_days >= 0:
            raise ConfigError(f"keep_days is {keep_days}, it must be at least 0, or None to keep all")
        if keep_per_user is not None and keep_per_user < 1:
            raise ConfigError(f"keep_per_user is {keep_per_user}, it must be at least 1, or None to keep all")
        deleted = 0
        if keep_days is not None:
            moment = time.time() - keep_days * _SECONDS_PER_DAY
            self._delete_before("exposures", moment)
            deleted = self._delete_before("events", moment)
        deleted += 0 if keep_per_user is None else self._delete_beyond(keep_per_user)
        if deleted:
            self._writer.submit(self._record_deletion)
        return deleted

    def _delete_before(self, table: str, moment: float) -> int:
        # By ranges of sequence numbers: no index on time is needed and each transaction is short.
        first, last = self._fetch(f"SELECT coalesce(min(sequence), 0), coalesce(max(sequence), -1) FROM {table}")[0]
        statement = f"DELETE FROM {table} WHERE sequence >= ? AND sequence < ? AND timestamp < ?"
        ranges = ((low, low + _ROWS_PER_DELETE, moment) for low in range(first, last + 1, _ROWS_PER_DELETE))
        return sum(self._change(statement, [one]) for one in ranges)

    def _delete_beyond(self, keep: int) -> int:
        # By ranges of users, so that memory is bounded.
        people, deleted = self._fetch("SELECT coalesce(max(number), 0) FROM people")[0][0], 0
        for low in range(0, people, _PEOPLE_PER_QUERY):
            surplus = self._fetch(_SURPLUS, (low, low + _PEOPLE_PER_QUERY, keep))
            for part in _parts(surplus, _ROWS_PER_DELETE):
                deleted += self._change("DELETE FROM events WHERE sequence = ?", part)
        return deleted

    def _record_deletion(self, connection: Any, digest: bytes | None = None) -> None:
        """Make every server drop its cached users. digest: of the deleted user; None: old events were deleted."""
        sequence = self._allocate_sequence(connection, 1)
        self._all(connection, "DELETE FROM deletions WHERE digest = ? OR digest IS NULL", [(digest,)])
        self._all(connection, "INSERT INTO deletions (sequence, digest) VALUES (?, ?)", [(sequence, digest)])

    # --- items -----------------------------------------------------------------------------------------------------

    def put_item(self, id: str, item: Item) -> Changed:
        """Create or change an item; an empty title, text or attributes keep what is stored. Errors as ``append``."""
        _require_storable(item.title, item.text, *item.attributes, *chain(*item.attributes.values()))
        return self._set_item(id, lambda body: msgspec.json.encode(_merged(item, body)).decode())

    def delete_item(self, id: str) -> Changed:
        """Delete an item. A tombstone is kept in ``item_changes``, also for an unknown id."""
        return self._set_item(id, lambda _: None)

    def _set_item(self, id: str, change: Callable[[str | None], str | None]) -> Changed:
        """change: from the stored body, None if there is none, to the new one, None if deleted."""
        _require_storable(id)

        def work(connection: Any) -> bool:
            sequence = self._allocate_sequence(connection, 1)
            stood = self._rows(connection, "SELECT body FROM items WHERE id = ? AND body IS NOT NULL", (id,))
            self._all(connection, _SET_ITEM, [(id, sequence, change(stood[0][0] if stood else None))])
            return bool(stood)

        return Changed(id=id, existed=self._writer.submit(work))

    def item_changes(self, after: int) -> list[ItemChange]:
        """Items changed after a sequence number, each in its latest state, oldest change first.

        Unreadable rows are logged, counted and skipped.
        """
        read, changes = msgspec.json.Decoder(Item).decode, []
        for sequence, id, body in self._fetch(_ITEM_CHANGES, (after,)):
            try:
                changes.append(ItemChange(sequence, id, None if body is None else read(body)))
            except (msgspec.MsgspecError, TypeError, ValueError) as error:
                if sequence not in self._unreadable:
                    _log.warning("skipping unreadable item %r in the store: %s", id, error)
                self._unreadable.add(sequence)
        return changes

    # --- users -----------------------------------------------------------------------------------------------------

    def put_user(self, id: str, user: User) -> Changed:
        """Replace a user's profile and friends; duplicate friends count once. Errors as ``append``."""
        _require_storable(id, user.profile, *user.ties)

        def work(connection: Any) -> bool:
            sequence = self._allocate_sequence(connection, 1)
            digests = self._add_people(connection, {id, *user.ties})
            person = digests[id]
            stood = self._rows(connection, _PROFILE, (person,))
            self._all(connection, _SET_PROFILE, [(person, sequence, user.profile)])
            self._all(connection, f"DELETE FROM ties WHERE person = {_PERSON}", [(person,)])
            ties = [(person, digests[friend], place) for place, friend in enumerate(user.ties)]
            self._all(connection, _NEW_TIE, ties)
            return bool(stood)

        return Changed(id=id, existed=self._writer.submit(work, 1 + len(user.ties)))

    def user(self, id: str) -> User | None:
        """As last written by ``put_user``; None if never written."""
        return self._read(lambda connection: self._user(connection, self._digest(id)))

    def _user(self, connection: Any, digest: bytes) -> User | None:
        rows = self._rows(connection, _PROFILE, (digest,))
        if not rows:
            return None
        return User(profile=rows[0][0], ties=[friend for (friend,) in self._rows(connection, _TIES, (digest,))])

    def read_user(self, id: str, others: Sequence[str] = ()) -> UserRecord:
        """All data stored about one user. others: further ids to be checked for deletion."""

        def query(connection: Any) -> UserRecord:
            own = self._digest(id)
            user, events = self._user(connection, own), self._history(connection, own)
            return UserRecord(events, user, self._deleted(connection, (id, *others, *(user.ties if user else ()))))

        return self._read(query)

    def deleted_users(self, ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that were ever passed to ``delete_user``."""
        return self._read(lambda connection: self._deleted(connection, ids))

    def _deleted(self, connection: Any, ids: Sequence[str]) -> frozenset[str]:
        id_of_digest = {self._digest(id): id for id in ids}
        deleted = set[str]()
        for part in _parts(list(id_of_digest), _PEOPLE_PER_QUERY):
            rows = self._rows(connection, _DELETED.format(", ".join("?" * len(part))), tuple(part))
            deleted |= {id_of_digest[digest] for (digest,) in rows}
        return frozenset(deleted)

    def delete_user(self, id: str) -> Changed:
        """Erase a user: events, profile, social edges in both directions, exposures, and the id itself.

        A salted digest is kept, see ``UserRecord.deleted``: with access to the store, a guessed id can be verified.
        SQLite's files no longer contain the id's bytes on return; PostgreSQL reclaims them on vacuum.

        Raises:
            StoreUnavailableError: also if the user was removed but another process still reads old pages of the
                files; calling again completes the removal.
        """
        digest = self._digest(id)

        def work(connection: Any) -> bool:
            self._record_deletion(connection, digest)
            found = self._rows(connection, "SELECT number FROM people WHERE digest = ? AND live = 1", (digest,))
            for statement in (*_TRACES, self._erase_person):
                self._all(connection, statement, found)
            return bool(found)

        return Changed(id=id, existed=self._writer.submit(work))

    def _digest(self, id: str) -> bytes:
        return _digest(id, self._salt)

    # --- change tracking -------------------------------------------------------------------------------------------

    def sequence(self) -> int:
        """The last sequence number taken."""
        return int(self._fetch("SELECT sequence FROM counter")[0][0])

    def changed_users(self, after: int) -> tuple[int, list[str] | None]:
        """The current sequence number, and the ids with new events or a new profile after ``after``, unordered.

        None instead of ids: drop every cached user. A user was deleted (no id is left to name), old events were
        deleted, more than ``MOST_CHANGES`` changes happened, or ``after`` is from another store.
        """

        def query(connection: Any) -> tuple[int, list[str] | None]:
            [(now,)] = self._rows(connection, "SELECT sequence FROM counter")
            deletions = "SELECT 1 FROM deletions WHERE sequence > ? AND sequence <= ? LIMIT 1"
            if not 0 <= now - after <= MOST_CHANGES or self._rows(connection, deletions, (after, now)):
                return now, None
            return now, [id for (id,) in self._rows(connection, _CHANGED_USERS, (after, now, after, now))]

        return self._read(query)

    def listen(self, on_change: Callable[[], None]) -> Closer:
        """Call ``on_change`` in a thread whenever another server may have changed something, until the returned
        function is called. A single-host store never calls it: its workers notify each other."""
        return lambda: None

    # --- experiments -----------------------------------------------------------------------------------------------

    def expose(self, rows: Sequence[Exposure]) -> None:
        """Log exposures; on disk on return. Errors as ``append``."""
        for row in rows:
            _require_storable(row.experiment, row.arm, row.user_id, *row.item_ids)
        shown = [msgspec.json.encode(row.item_ids).decode() for row in rows]

        def work(connection: Any) -> None:
            first = self._allocate_sequence(connection, len(rows))
            people = self._add_people(connection, {row.user_id for row in rows})
            values = [
                (first + place, row.experiment, row.arm, people[row.user_id], row.timestamp, shown[place])
                for place, row in enumerate(rows)
            ]
            self._all(connection, _NEW_EXPOSURE, values)

        self._writer.submit(work, len(rows))

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """The exposures of one experiment, in log order, in bounded memory."""
        after = 0
        while rows := self._fetch(_EXPOSURES, (experiment, after, _ROWS_PER_BATCH)):
            after = rows[-1][0]
            for _, name, arm, user_id, timestamp, items in rows:
                yield Exposure(name, arm, user_id, timestamp, msgspec.json.decode(items, type=list[str]))

    # --- maintenance -----------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
        """Counts and statistics. Scans an index of all events: for dashboards, not for each request."""
        [(events, users, items)] = self._fetch(_COUNTS)
        writer = self._writer
        return StoreStats(
            events=events,
            users=users,
            items=items,
            bytes_on_disk=self._bytes_on_disk(),
            commit_milliseconds=writer.commit_milliseconds,
            batches_per_commit=writer.batches / max(writer.commits, 1),
            future_timestamps=self._future_timestamps,
            unreadable_items=len(self._unreadable),
        )

    def check(self) -> None:
        """Health check: reads one row.

        After a failed commit it also writes, to detect recovery.

        Raises:
            StoreUnavailableError: no response, the file was removed, commits fail, or the writer thread has ended.
        """
        self._writer.require_alive()
        if self._writer.failing:
            self._writer.submit(lambda connection: self._rows(connection, _TAKE_SEQUENCE.format(""), (0,)))
        self.sequence()

    def _allocate_sequence(self, connection: Any, count: int) -> int:
        """The first of ``count`` new sequence numbers."""
        last = self._rows(connection, _TAKE_SEQUENCE.format(self._notify), (count,))[0][0]
        return int(last) - count + 1


def _parts(values: Sequence[Value], most: int) -> Iterator[Sequence[Value]]:
    return (values[first : first + most] for first in range(0, len(values), most))


def _digest(text: str, salt: bytes = b"") -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, salt=salt).digest()


def _merged(item: Item, body: str | None) -> Item:
    """The item with what it leaves empty taken from the stored one, if that can be read."""
    with contextlib.suppress(msgspec.MsgspecError, TypeError, ValueError):
        return item.or_else(msgspec.json.decode(body or "{}", type=Item))
    return item


def _is_ahead(event: Event, received: float) -> bool:
    return event.timestamp is not None and event.timestamp > received + CLOCK_SECONDS


def _event_row(event: Event, received: float) -> tuple[Any, ...]:
    """User id, item id, behaviour, weight, time and key digest."""
    _require_storable(event.user_id, event.item_id, event.behaviour)
    for field, number in (("weight", event.weight), ("timestamp", event.timestamp)):
        if number is not None and not math.isfinite(number):
            raise DataError(f"{number} cannot be stored; send a finite number", field=field)
    own = event.timestamp is not None and not _is_ahead(event, received)
    key = None if event.key is None else _digest(event.key)
    return event.user_id, event.item_id, event.behaviour, event.weight, event.timestamp if own else received, key


def _require_storable(*texts: str) -> None:
    for text in texts:
        try:
            storable = "\0" not in text and (text.isascii() or bool(text.encode()))
        except UnicodeEncodeError:
            storable = False
        if not storable:
            raise DataError(f"{text[:60]!r} contains NUL or a lone surrogate; send valid UTF-8 text")
