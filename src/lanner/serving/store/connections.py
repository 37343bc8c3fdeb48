"""Connections to a relational database, and transactions. Statements use ``?`` as the placeholder."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from lanner.errors import ConfigError, DataError, LannerError
from lanner.serving.store.writer import CLOSED, Work, Writer

Result = TypeVar("Result")

QUEUE_LIMIT = 100_000
"""Maximum number of queued events: about 50 MB."""


class Connections(ABC):
    """One write connection, and one per concurrent reader; a few idle ones are pooled."""

    _errors: ClassVar[tuple[type[Exception], ...]]
    """Exceptions of the database driver."""
    _lost: ClassVar[tuple[type[Exception], ...]]
    """Exceptions after which a new connection may succeed."""
    _most_idle: ClassVar[int]
    """Maximum number of pooled idle connections."""
    _placeholder: ClassVar[str]
    _begin: ClassVar[str]

    def __init__(self, name: str, queue_limit: int = QUEUE_LIMIT) -> None:
        """name: shown in errors while opening; later errors do not reveal the location.

        queue_limit: maximum number of queued events before ``append`` rejects more.
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

    # --- database-specific -----------------------------------------------------------------------------------------

    @abstractmethod
    def _connect(self, reading: bool) -> Any:
        """A connection in autocommit mode."""

    @abstractmethod
    def _prepare(self, connection: Any) -> None:
        """Create missing tables. Raises DataError for another database or schema version."""

    @abstractmethod
    def _translated(self, error: Exception) -> LannerError:
        """A driver exception as a one-line error."""

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
        """Run a statement for each of ``values`` in one transaction; returns the number of rows changed."""
        return self._writer.submit(lambda connection: self._all(connection, statement, values))

    def _all(self, connection: Any, statement: str, values: Sequence[tuple[Any, ...]]) -> int:
        """Run a statement for each of ``values``; returns the number of rows changed."""
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
        """The result of ``query``, retried once if the connection was lost since its last use."""
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
        """Begin on the open connection, or on a new one if it was lost; nothing was sent yet."""
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
            raise DataError(f"invalid Unicode text ({error.reason}); send UTF-8") from error
        except self._errors as error:
            raise self._translated(error) from error
