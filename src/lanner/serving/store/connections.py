"""Connections to a database of tables, and transactions on them. Statements are written with ``?`` for values."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from lanner.errors import ConfigError, DataError, LannerError
from lanner.serving.store.writer import CLOSED, Work, Writer

Result = TypeVar("Result")

QUEUE_LIMIT = 100_000
"""Events that may wait to be written: some 50 MB."""


class Connections(ABC):
    """One connection that writes, and one for each concurrent reader; a few idle ones are kept."""

    _errors: ClassVar[tuple[type[Exception], ...]]
    """What the database's library raises."""
    _lost: ClassVar[tuple[type[Exception], ...]]
    """Those after which a fresh connection may answer."""
    _most_idle: ClassVar[int]
    """Idle connections kept for the next readers."""
    _placeholder: ClassVar[str]
    _begin: ClassVar[str]

    def __init__(self, name: str, queue_limit: int = QUEUE_LIMIT) -> None:
        """name: shown in errors while it is opened; who is told of later ones need not know where the store is.

        queue_limit: events that may wait to be written before ``append`` refuses more.
        """
        self._name = name
        self._opened = self._closed = False
        self._idle: deque[Any] = deque()
        with self._translating():
            self._writing: Any = self._connect(reading=False)
            try:
                self._prepare(self._writing)
            except BaseException:
                self._close_writing()
                raise
        self._name, self._opened = "the store", True
        self._writer = Writer(self._transact, queue_limit)

    # --- what each database does its own way -----------------------------------------------------------------------

    @abstractmethod
    def _connect(self, reading: bool) -> Any:
        """A connection that commits each statement unless a transaction was begun."""

    @abstractmethod
    def _prepare(self, connection: Any) -> None:
        """Create missing tables. Raises DataError for a database of something else or of another schema."""

    @abstractmethod
    def _translated(self, error: Exception) -> LannerError:
        """What the library raised, as a one-line error."""

    @abstractmethod
    def _bytes_on_disk(self) -> int: ...

    # --- statements ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._writer.close()
        self._closed = True
        self._close_writing()
        while self._idle:
            self._idle.pop().close()

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
        """The answer of ``query``, asked once more if the connection was lost since its last use."""
        if self._closed:
            raise ConfigError(CLOSED)
        with self._translating():
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
        with self._translating():
            self._begin_writing()
            try:
                result = work(self._writing)
                self._writing.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            return result

    def _begin_writing(self) -> None:
        """Begin on the open connection; if it was lost, on a fresh one. Nothing was sent yet."""
        if self._writing is not None:
            try:
                self._writing.execute(self._begin)
                return
            except self._lost:
                self._close_writing()
        self._writing = self._connect(reading=False)
        self._writing.execute(self._begin)

    def _roll_back(self) -> None:
        try:
            self._writing.execute("ROLLBACK")
        except self._errors:
            self._close_writing()

    def _close_writing(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise DataError(f"a text that is no Unicode ({error.reason}); send it in UTF-8") from error
        except self._errors as error:
            raise self._translated(error) from error
