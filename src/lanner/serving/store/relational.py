"""The store in SQL: what SQLite and PostgreSQL do alike.

Every transaction that changes something first takes its numbers from the one row of ``counter``. Whoever else writes
waits for that row, so numbers appear in the order in which they were given, across processes and servers.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from itertools import chain
from threading import Lock
from typing import Any

import msgspec

from lanner.errors import ConfigError, DataError
from lanner.serving.messages import Changed, Event, EventsAnswer, Item, User
from lanner.serving.store.connections import MOST_WAITING, Connections
from lanner.serving.store.contract import (
    FUTURE_SECONDS,
    MOST_CHANGES,
    EventRow,
    Exposure,
    ItemChange,
    Store,
    StoredEvent,
    StoreStats,
)

_ROWS_A_BATCH = 10_000
_ROWS_A_DELETE = 1_000
"""In one transaction: a few milliseconds, for appends wait until it ends."""
_PEOPLE_A_LOOK = 1_000
_KEY_BYTES = 16
_SECONDS_A_DAY = 86_400

_HISTORY = """SELECT sequence, item, behaviour, weight, timestamp FROM events
    WHERE person = (SELECT number FROM people WHERE id = ?) ORDER BY timestamp DESC, sequence DESC LIMIT ?"""
_STORED = "SELECT sequence FROM events WHERE sequence >= ? AND sequence < ?"
_NEW_TIE = """INSERT INTO ties (person, friend, position)
    SELECT p.number, f.number, ? FROM people p, people f WHERE p.id = ? AND f.id = ? ON CONFLICT DO NOTHING"""
_NEW_EXPOSURE = """INSERT INTO exposures (sequence, experiment, arm, person, timestamp, items)
    VALUES (?, ?, ?, (SELECT number FROM people WHERE id = ?), ?, ?)"""
_SET_ITEM = """INSERT INTO items (id, sequence, body) VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, body = excluded.body"""
_USER = """SELECT p.profile, f.id FROM people p LEFT JOIN ties t ON t.person = p.number
    LEFT JOIN people f ON f.number = t.friend WHERE p.id = ? AND p.profile IS NOT NULL ORDER BY t.position"""
_CHANGED_USERS = """SELECT id FROM people WHERE (changed > ? AND changed <= ?)
    OR number IN (SELECT person FROM events WHERE sequence > ? AND sequence <= ?)"""
_EXPOSURES = """SELECT e.sequence, e.experiment, e.arm, p.id, e.timestamp, e.items FROM exposures e
    JOIN people p ON p.number = e.person WHERE e.experiment = ? AND e.sequence > ? ORDER BY e.sequence LIMIT ?"""
_EVENTS = """SELECT e.sequence, p.id, e.item, e.behaviour, e.weight, e.timestamp FROM events e
    JOIN people p ON p.number = e.person WHERE e.sequence > ? ORDER BY e.sequence LIMIT ?"""
_LONG_HISTORIES = """SELECT person, count(*) FROM events WHERE person > ?
    GROUP BY person HAVING count(*) > ? ORDER BY person LIMIT ?"""
_DELETE_BEYOND = """DELETE FROM events WHERE sequence IN (SELECT sequence FROM events WHERE person = ?
    ORDER BY timestamp DESC, sequence DESC LIMIT ? OFFSET ?)"""
_COUNTS = """SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM people),
    (SELECT count(*) FROM items WHERE body IS NOT NULL)"""
_TRACES = (
    "DELETE FROM events WHERE person = ?",
    "DELETE FROM ties WHERE person = ?",
    "DELETE FROM ties WHERE friend = ?",
    "DELETE FROM exposures WHERE person = ?",
)


class RelationalStore(Connections, Store):
    """A store in a database of tables; what a database does its own way is said in ``Connections``."""

    def __init__(self, name: str, most_waiting: int = MOST_WAITING) -> None:
        """Arguments as ``Connections``."""
        super().__init__(name, most_waiting)
        self._lock = Lock()
        self._latest = -math.inf
        self._future_timestamps = 0

    # --- events ----------------------------------------------------------------------------------------------------

    def appending(self, events: Sequence[Event], received: float) -> "Future[EventsAnswer]":
        with self._lock:
            received = self._latest = max(self._latest, received)
        rows = [_event_row(event, received) for event in events]

        def count(done: "Future[EventsAnswer]") -> None:
            if done.exception() is None:
                with self._lock:
                    self._future_timestamps += ahead

        ahead = sum(_is_ahead(event, received) for event in events)
        stored = self._writer.begin_together(self._append, rows, len(rows))
        stored.add_done_callback(count)
        return stored

    def _append(self, connection: Any, batches: Sequence[Sequence[tuple[Any, ...]]]) -> list[EventsAnswer]:
        """Store the rows of several callers; what each is told."""
        rows = list(chain.from_iterable(batches))
        first = self._take_numbers(connection, len(rows))
        self._insert_people(connection, {row[0] for row in rows})
        accepted = self._insert_events(connection, [(first + place, *row) for place, row in enumerate(rows)])
        numbers = set(range(first, first + len(rows)))
        if accepted < len(rows):
            numbers = {number for (number,) in self._rows(connection, _STORED, (first, first + len(rows)))}
        answers = []
        for batch in batches:
            new = sum(number in numbers for number in range(first, first + len(batch)))
            answers.append(EventsAnswer(accepted=new, duplicates=len(batch) - new))
            first += len(batch)
        return answers

    @abstractmethod
    def _insert_people(self, connection: Any, ids: Collection[str]) -> None:
        """Give numbers to those who have none."""

    @abstractmethod
    def _insert_events(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> int:
        """How many were new; a row is sequence, user id, item, behaviour, weight, timestamp and the key's digest."""

    def histories(self, user_ids: Sequence[str], limit: int) -> list[list[StoredEvent]]:
        if limit < 1:
            raise ConfigError(f"limit = {limit}: a history of fewer than 1 event; give at least 1")

        def query(connection: Any) -> list[list[StoredEvent]]:
            return [[StoredEvent(*row) for row in rows[::-1]] for rows in self._newest(connection, user_ids, limit)]

        return self._read(query)

    def _newest(self, connection: Any, user_ids: Sequence[str], limit: int) -> list[list[tuple[Any, ...]]]:
        """Rows of each user's events, newest first."""
        return [self._rows(connection, _HISTORY, (id, limit)) for id in user_ids]

    def events(self) -> Iterator[list[EventRow]]:
        after = 0
        while rows := self._fetch(_EVENTS, (after, _ROWS_A_BATCH)):
            after = rows[-1][0]
            yield [EventRow(*row) for row in rows]

    def compact(self, keep_days: float | None, keep_per_user: int | None) -> int:
        if keep_days is not None and not keep_days >= 0:
            raise ConfigError(f"keep_days = {keep_days}: give 0 or more days, or none to keep all")
        if keep_per_user is not None and keep_per_user < 1:
            raise ConfigError(f"keep_per_user = {keep_per_user}: give at least 1, or none to keep all")
        deleted = 0
        if keep_days is not None:
            moment = time.time() - keep_days * _SECONDS_A_DAY
            self._delete_before("exposures", moment)
            deleted = self._delete_before("events", moment)
        deleted += 0 if keep_per_user is None else self._delete_beyond(keep_per_user)
        self._free_space()
        return deleted

    def _delete_before(self, table: str, moment: float) -> int:
        # By ranges of numbers, so that no index on time is needed and each transaction is short.
        first, last = self._fetch(f"SELECT coalesce(min(sequence), 0), coalesce(max(sequence), -1) FROM {table}")[0]
        statement = f"DELETE FROM {table} WHERE sequence >= ? AND sequence < ? AND timestamp < ?"
        ranges = ((low, low + _ROWS_A_DELETE, moment) for low in range(first, last + 1, _ROWS_A_DELETE))
        return sum(self._change(statement, [one]) for one in ranges)

    def _delete_beyond(self, keep: int) -> int:
        deleted, person = 0, 0
        while rows := self._fetch(_LONG_HISTORIES, (person, keep, _PEOPLE_A_LOOK)):
            person = rows[-1][0]
            for batch in _batches([(number, count - keep) for number, count in rows]):
                deleted += self._change(_DELETE_BEYOND, [(number, count, keep) for number, count in batch])
        return deleted

    # --- items and users -------------------------------------------------------------------------------------------

    def put_item(self, id: str, item: Item) -> Changed:
        _require_storable(item.title, item.text, *item.attributes, *chain(*item.attributes.values()))
        return self._set_item(id, msgspec.json.encode(item).decode())

    def delete_item(self, id: str) -> Changed:
        return self._set_item(id, None)

    def _set_item(self, id: str, body: str | None) -> Changed:
        _require_storable(id)

        def work(connection: Any) -> bool:
            sequence = self._take_numbers(connection, 1)
            stood = self._rows(connection, "SELECT 1 FROM items WHERE id = ? AND body IS NOT NULL", (id,))
            self._all(connection, _SET_ITEM, [(id, sequence, body)])
            return bool(stood)

        return Changed(id=id, existed=self._writer.submit(work))

    def item_changes(self, after: int) -> list[ItemChange]:
        rows = self._fetch("SELECT sequence, id, body FROM items WHERE sequence > ? ORDER BY sequence", (after,))
        read = msgspec.json.Decoder(Item).decode
        return [ItemChange(sequence, id, None if body is None else read(body)) for sequence, id, body in rows]

    def put_user(self, id: str, user: User) -> Changed:
        _require_storable(id, user.profile, *user.ties)
        ties = [(place, id, friend) for place, friend in enumerate(user.ties)]

        def work(connection: Any) -> bool:
            sequence = self._take_numbers(connection, 1)
            self._insert_people(connection, {id, *user.ties})
            [(number, stood)] = self._rows(connection, "SELECT number, profile FROM people WHERE id = ?", (id,))
            written = (user.profile, sequence, number)
            self._all(connection, "UPDATE people SET profile = ?, changed = ? WHERE number = ?", [written])
            self._all(connection, "DELETE FROM ties WHERE person = ?", [(number,)])
            self._all(connection, _NEW_TIE, ties)
            return stood is not None

        return Changed(id=id, existed=self._writer.submit(work, 1 + len(ties)))

    def user(self, id: str) -> User | None:
        rows = self._fetch(_USER, (id,))
        return User(profile=rows[0][0], ties=[friend for _, friend in rows if friend is not None]) if rows else None

    def forget_user(self, id: str) -> Changed:
        def work(connection: Any) -> bool:
            sequence = self._take_numbers(connection, 1)
            found = self._rows(connection, "SELECT number FROM people WHERE id = ?", (id,))
            if found:
                for statement in _TRACES:
                    self._all(connection, statement, found)
                self._rewrite_people(connection, found[0][0])
            digest = self._digest(connection, id)
            self._all(connection, "INSERT INTO forgotten (sequence, digest) VALUES (?, ?)", [(sequence, digest)])
            return bool(found)

        existed = self._writer.submit(work)
        self._writer.alone(self._clear_logs)
        return Changed(id=id, existed=existed)

    def _rewrite_people(self, connection: Any, without: int) -> None:
        """All the others anew. To delete one row would not do: pages keep copies of rows that were moved in them."""
        columns = "number, id, profile, changed"
        for statement in (
            f"CREATE TEMPORARY TABLE others AS SELECT {columns} FROM people WHERE number <> {int(without)}",
            self._empty_people,
            f"INSERT INTO people ({columns}) SELECT {columns} FROM others ORDER BY number",
            "DROP TABLE others",
        ):
            connection.execute(statement)

    def is_forgotten(self, id: str) -> bool:
        def query(connection: Any) -> bool:
            digest = self._digest(connection, id)
            return bool(self._rows(connection, "SELECT 1 FROM forgotten WHERE digest = ? LIMIT 1", (digest,)))

        return self._read(query)

    def _digest(self, connection: Any, id: str) -> bytes:
        [(salt,)] = self._rows(connection, "SELECT salt FROM counter")
        return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES, salt=bytes.fromhex(salt)).digest()

    def changed_users(self, after: int) -> tuple[int, list[str] | None]:
        def query(connection: Any) -> tuple[int, list[str] | None]:
            [(now,)] = self._rows(connection, "SELECT sequence FROM counter")
            forgotten = "SELECT 1 FROM forgotten WHERE sequence > ? AND sequence <= ? LIMIT 1"
            if not 0 <= now - after <= MOST_CHANGES or self._rows(connection, forgotten, (after, now)):
                return now, None
            return now, [id for (id,) in self._rows(connection, _CHANGED_USERS, (after, now, after, now))]

        return self._read(query)

    # --- experiments -----------------------------------------------------------------------------------------------

    def expose(self, rows: Sequence[Exposure]) -> None:
        for row in rows:
            _require_storable(row.experiment, row.arm, row.user_id, *row.item_ids)
        people = {row.user_id for row in rows}
        values = [
            (row.experiment, row.arm, row.user_id, row.timestamp, msgspec.json.encode(row.item_ids).decode())
            for row in rows
        ]

        def work(connection: Any) -> None:
            first = self._take_numbers(connection, len(values))
            self._insert_people(connection, people)
            self._all(connection, _NEW_EXPOSURE, [(first + place, *row) for place, row in enumerate(values)])

        self._writer.submit(work, len(values))

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        after = 0
        while rows := self._fetch(_EXPOSURES, (experiment, after, _ROWS_A_BATCH)):
            after = rows[-1][0]
            for _, name, arm, user_id, timestamp, items in rows:
                yield Exposure(name, arm, user_id, timestamp, msgspec.json.decode(items, type=list[str]))

    # --- the store itself ------------------------------------------------------------------------------------------

    def stats(self) -> StoreStats:
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
        )

    def check(self) -> None:
        self._fetch("SELECT sequence FROM counter")

    def _take_numbers(self, connection: Any, count: int) -> int:
        """The first of ``count`` new sequence numbers."""
        [(last,)] = self._rows(connection, "UPDATE counter SET sequence = sequence + ? RETURNING sequence", (count,))
        return int(last) - count + 1


def _batches(surplus: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """(person, events too many) in parts of at most ``_ROWS_A_DELETE`` events; one person may be in several."""
    batch: list[tuple[int, int]] = []
    room = _ROWS_A_DELETE
    for person, left in surplus:
        while left:
            taken = min(left, room)
            batch.append((person, taken))
            left, room = left - taken, room - taken
            if not room:
                yield batch
                batch, room = [], _ROWS_A_DELETE
    if batch:
        yield batch


def _is_ahead(event: Event, received: float) -> bool:
    return event.timestamp is not None and event.timestamp > received + FUTURE_SECONDS


def _event_row(event: Event, received: float) -> tuple[Any, ...]:
    """User id, item id, behaviour, weight, time and digest of the key."""
    _require_storable(event.user_id, event.item_id, event.behaviour)
    for field, number in (("weight", event.weight), ("timestamp", event.timestamp)):
        if number is not None and not math.isfinite(number):
            raise DataError(f"{number} is no number that can be stored; send a finite one", field=field)
    own = None if event.timestamp is None or _is_ahead(event, received) else event.timestamp
    digest = (
        None
        if event.key is None
        else blake2b(event.key.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
    )
    return event.user_id, event.item_id, event.behaviour, event.weight, received if own is None else own, digest


def _require_storable(*texts: str) -> None:
    for text in texts:
        if "\0" in text or not (text.isascii() or _is_unicode(text)):
            raise DataError(f"{text[:60]!r} holds NUL or half a character, which is not stored; send whole UTF-8 text")


def _is_unicode(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False
