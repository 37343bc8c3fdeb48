"""In-memory cache of user histories: events of the bundle and the store, for as many users as fit.

A user who is not cached is read from the store in a thread, so an acknowledged event is in the next answer. Every
change of a user invalidates their entry: the order of events, deduplication, and the effect of later events on earlier
ones are thus decided in one place, from the contents of the store.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import count

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.errors import StoreUnavailableError
from lanner.serving.catalog import Catalog
from lanner.serving.messages import MAX_HISTORY
from lanner.serving.store import Store

_NO_ROWS = np.empty(0, np.int32)
_BYTES_PER_USER = 900
"""Approximate bytes of a state beside its rows."""
_READERS = 4
_READ_SECONDS = 2.0
"""Timeout of a store read, in seconds."""


class UserState(Struct, frozen=True):
    """The state of a user; rows are as of when it was read.

    rows: int32 ``[n]``, the newest items with positive events, oldest first, with repeats. weights: float32 ``[n]``,
    their confidences; None: 1 each. seen: int32, distinct items of all events, positive or negative, however old.
    friends: int32 rows of users. profile: None if there is none. attributes: int64, as in ``Query``. known:
    whether bundle or store know the user. version: unique to this state. catalog_version: at which some items were
    unknown; None: all were known.
    """

    rows: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    seen: NDArray[np.int32]
    friends: NDArray[np.int32]
    profile: str | None
    attributes: NDArray[np.int64]
    known: bool
    version: int
    catalog_version: int | None

    @property
    def num_bytes(self) -> int:
        weights = 0 if self.weights is None else self.weights.nbytes
        arrays = self.rows.nbytes + weights + self.seen.nbytes + self.friends.nbytes + self.attributes.nbytes
        return _BYTES_PER_USER + arrays + len(self.profile or "")


class UserHistory:
    """Cache of user states. Used on the event loop; only reads run in threads."""

    def __init__(
        self,
        dataset: Dataset,
        catalog: Catalog,
        store: Store,
        feedback: Feedback,
        *,
        watermark: int = 0,
        length: int = MAX_HISTORY,
        most_users: int = 100_000,
        most_bytes: int = 2**28,
    ) -> None:
        """dataset: with event confidences. feedback: turns the store's events into confidences.

        watermark: the store's events up to this sequence number are in the dataset. length: maximum history length.
        most_users, most_bytes: limits of the cache (LRU).
        """
        self._dataset, self._catalog, self._store = dataset, catalog, store
        self._confidence = lru_cache(10_000)(feedback.confidence)
        self._watermark, self._length, self._most_users, self._most_bytes = watermark, length, most_users, most_bytes
        events = np.arange(len(dataset.interactions), dtype=np.int32)
        self._events_of = Ragged.from_pairs(dataset.interactions.user, events, dataset.num_users)
        self._states: OrderedDict[str, UserState] = OrderedDict()
        self._reading: dict[str, asyncio.Future[UserState]] = {}
        self._readers = ThreadPoolExecutor(_READERS, "user-history")
        self._versions = count(1)
        self.held_bytes = 0
        """Bytes of the cached states."""

    def __len__(self) -> int:
        """Number of cached states."""
        return len(self._states)

    def get(self, user_id: str) -> UserState | None:
        """The cached state of a user; None: call ``load``."""
        state = self._states.get(user_id)
        if state is None or state.catalog_version not in (None, self._catalog.version):
            return None
        self._states.move_to_end(user_id)
        return state

    async def load(self, user_id: str) -> UserState:
        """The state of a user from bundle and store; empty for an unknown user.

        It is cached unless the user is dropped meanwhile.

        Raises:
            StoreUnavailableError: without the store it is unknown whether the user was deleted.
        """
        reading = self._reading.get(user_id)
        if reading is None:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, user_id)
            self._reading[user_id] = reading
            reading.add_done_callback(partial(self._keep, user_id))
        await asyncio.wait((reading,), timeout=_READ_SECONDS)
        if not reading.done() or reading.cancelled():  # by another waiting caller
            reading.cancel()
            raise StoreUnavailableError(f"the store did not respond within {_READ_SECONDS:g} s; try again later")
        return reading.result()

    def drop(self, user_ids: Iterable[str] | None) -> None:
        """Invalidate these users (None: all)."""
        for user_id in {*self._states, *self._reading} if user_ids is None else user_ids:
            self._remove(user_id)
            self._reading.pop(user_id, None)

    def close(self) -> None:
        """Release the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _keep(self, user_id: str, reading: "asyncio.Future[UserState]") -> None:
        is_current = self._reading.get(user_id) is reading
        if is_current:
            del self._reading[user_id]
        if reading.cancelled() or reading.exception() is not None or not is_current:
            return
        self._remove(user_id)
        self._states[user_id] = state = reading.result()
        self.held_bytes += state.num_bytes
        while len(self._states) > self._most_users or self.held_bytes > self._most_bytes:
            self._remove(next(iter(self._states)))

    def _remove(self, user_id: str) -> None:
        state = self._states.pop(user_id, None)
        self.held_bytes -= 0 if state is None else state.num_bytes

    # --- in threads ------------------------------------------------------------------------------------------------

    def _read(self, user_id: str) -> UserState:
        # Before item lookup: items added meanwhile count as newer.
        catalog_version = self._catalog.version
        users, ties = self._dataset.users, self._dataset.ties
        row = users.row(user_id) if user_id in users else None
        friends = _NO_ROWS if row is None or ties is None else ties[row]
        record = self._store.read_user(user_id, [users.external[friend] for friend in friends])
        if user_id in record.deleted:
            row, friends = None, _NO_ROWS
        profile = None if row is None else self._dataset.user_catalogue.texts[row]
        if record.user is not None:
            profile, known = record.user.profile, [friend for friend in record.user.ties if friend in users]
            friends = users.rows(known)
        friends = friends[[users.external[friend] not in record.deleted for friend in friends]]

        rows, confidences, times = self._bundle_events(row)
        found, unknown = self._catalog.known_rows(event.item_id for event in record.events)
        missing = set(unknown)
        events = [event for event in record.events if event.item_id not in missing]
        later = [place for place, event in enumerate(events) if row is None or event.sequence > self._watermark]
        seen = np.unique(np.concatenate([rows, found])).astype(np.int32)
        if later:
            weights = [self._confidence(events[place].behaviour, events[place].weight) for place in later]
            rows, confidences = np.append(rows, found[later]), np.append(confidences, np.array(weights, np.float32))
            times = np.append(times, [events[place].timestamp for place in later])
            order = np.argsort(times, kind="stable")
            rows, confidences = rows[order], _zero_disliked(rows[order], confidences[order])
        positive = np.flatnonzero(confidences > 0)[-self._length :]
        weights_N = confidences[positive]
        return UserState(
            rows[positive].astype(np.int32),
            None if (weights_N == 1).all() else weights_N,
            seen,
            friends,
            profile or None,
            _NO_ROWS.astype(np.int64) if row is None else self._dataset.user_catalogue.values[row].astype(np.int64),
            row is not None or record.user is not None or bool(record.events),
            next(self._versions),
            catalog_version if unknown else None,
        )

    def _bundle_events(self, row: int | None) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
        """Rows, confidences and times of the bundle's events of a user, in seconds; those without a time come first."""
        events, places = self._dataset.interactions, _NO_ROWS if row is None else self._events_of[row]
        confidence, timestamp = events.confidence, events.timestamp
        return (
            self._catalog.current(events.item[places]),
            np.ones(len(places), np.float32) if confidence is None else confidence[places],
            np.full(len(places), -np.inf) if timestamp is None else timestamp[places] / 1e9,
        )


def _zero_disliked(rows: NDArray[np.int64], confidences: NDArray[np.float32]) -> NDArray[np.float32]:
    """As ``Feedback.apply``: an item's earlier events do not count if its latest one is negative."""
    if (confidences > 0).all():
        return confidences
    _, latest, item = np.unique(rows[::-1], return_index=True, return_inverse=True)
    return np.where(confidences[::-1][latest][item][::-1] > 0, confidences, np.float32(0))
