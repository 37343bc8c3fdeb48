"""Connections to a database of tables, and transactions on them. Statements are written with ``?`` for values."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from lanner.errors import ConfigError, DataError, LannerError
from lanner.serving.store.writer import Work, Writer

Result = TypeVar("Result")

MOST_WAITING = 100_000
"""Events that may wait to be written: some 50 MB."""


class Connections(ABC):
    """One connection that writes, and as many that read as there are readers at once; a few of them are kept."""

    _errors: ClassVar[tuple[type[Exception], ...]]
    """What the database's library raises."""
    _lost: ClassVar[tuple[type[Exception], ...]]
    """Those of them after which a fresh connection may answer."""
    _most_idle: ClassVar[int]
    """Connections kept for whoever reads next; how many read at once now and then is more."""
    _placeholder: ClassVar[str]
    _begin: ClassVar[str]
    _empty_people: ClassVar[str]
    """The statement that deletes all rows of ``people`` and overwrites or unlinks their bytes."""

    def __init__(self, name: str, most_waiting: int = MOST_WAITING) -> None:
        """name: shown in errors. most_waiting: events that may wait to be written before ``append`` refuses more."""
        self._name = name
        self._closed = False
        self._idle: deque[Any] = deque()
        with self._plainly():
            self._writing: Any = self._connect(reading=False)
            try:
                self._prepare(self._writing)
            except BaseException:
                self._abandon_writing()
                raise
        self._writer = Writer(name, self._transact, most_waiting)

    # --- what each database does its own way -----------------------------------------------------------------------

    @abstractmethod
    def _connect(self, reading: bool) -> Any:
        """A connection that commits each statement unless a transaction was begun."""

    @abstractmethod
    def _prepare(self, connection: Any) -> None:
        """Make the tables where there are none. Raises DataError for what is no store, or one of a newer schema."""

    @abstractmethod
    def _translated(self, error: Exception) -> LannerError:
        """What the library raised, in one line of ours."""

    @abstractmethod
    def _bytes_on_disk(self) -> int: ...

    @abstractmethod
    def _clear_logs(self) -> None:
        """Take from the database's files what only they remember of deleted rows."""

    @abstractmethod
    def _free_space(self) -> None:
        """Give the space of deleted rows back to the disk."""

    def close(self) -> None:
        self._writer.close()
        self._closed = True
        self._abandon_writing()
        while self._idle:
            self._idle.pop().close()

    # --- statements ------------------------------------------------------------------------------------------------

    def _change(self, statement: str, values: Sequence[tuple[Any, ...]]) -> int:
        """Run a statement for each of ``values`` in one transaction; how many rows it changed."""
        return self._writer.submit(lambda connection: self._all(connection, statement, values))

    def _all(self, connection: Any, statement: str, values: Sequence[tuple[Any, ...]]) -> int:
        """Run a statement for each of ``values``; how many rows it changed."""
        if not values:
            return 0
        cursor = connection.cursor()
        cursor.executemany(statement.replace("?", self._placeholder), values)
        return int(cursor.rowcount)

    def _rows(self, connection: Any, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        rows: list[Any] = connection.execute(statement.replace("?", self._placeholder), values).fetchall()
        return rows

    def _fetch(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self._read(lambda connection: self._rows(connection, statement, values))

    def _read(self, query: Callable[[Any], Result]) -> Result:
        """The answer of ``query``, asked once more where the connection had been lost since its last use."""
        if self._closed:
            raise ConfigError(f"{self._name}: the store was closed; open it again")
        with self._plainly():
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._ask(self._connect(reading=True), query)
            try:
                return self._ask(connection, query)
            except self._lost:
                return self._ask(self._connect(reading=True), query)

    def _ask(self, connection: Any, query: Callable[[Any], Result]) -> Result:
        try:
            result = query(connection)
        except BaseException:
            connection.close()
            raise
        if self._closed or len(self._idle) >= self._most_idle:
            connection.close()
        else:
            self._idle.append(connection)
        return result

    def _transact(self, work: Work[Result]) -> Result:
        with self._plainly():
            self._begin_writing()
            try:
                result = work(self._writing)
                self._writing.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            return result

    def _begin_writing(self) -> None:
        """Begin on the connection there is; where it was lost since, on a fresh one. Nothing was sent yet."""
        if self._writing is not None:
            try:
                self._writing.execute(self._begin)
                return
            except self._lost:
                self._abandon_writing()
        self._writing = self._connect(reading=False)
        self._writing.execute(self._begin)

    def _roll_back(self) -> None:
        try:
            self._writing.execute("ROLLBACK")
        except self._errors:
            self._abandon_writing()

    def _abandon_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise DataError(f"a text that is no Unicode ({error.reason}); send it in UTF-8") from error
        except self._errors as error:
            raise self._translated(error) from error
