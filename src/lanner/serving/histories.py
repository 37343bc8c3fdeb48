"""What each user did last, in memory: the bundle's events, then the store's, with a bound on users and on events."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.errors import StoreUnavailableError
from lanner.serving.live import LiveItems
from lanner.serving.messages import Event
from lanner.serving.store import Store

_BYTES_A_USER = 600
"""Of a state beside its rows, roughly: a metric needs no more."""


class UserState(Struct):
    """rows: int64 ``[n]`` of items, oldest first. profile: None where nothing was said. version: rises with changes."""

    rows: NDArray[np.int64]
    profile: str | None
    version: int


class Known(Struct, frozen=True, array_like=True):
    """What a store knows of a user, for whoever has which bundle.

    item_ids: of the newest events, at most ``length``, oldest first. told: their profile; None where nothing was said.
    """

    item_ids: list[str]
    told: str | None
    forgotten: bool
    length: int


def read_known(store: Store, user_id: str, length: int, in_a_bundle: bool) -> Known:
    """Ask a store. in_a_bundle: whether it matters that they may be forgotten. Raises StoreUnavailableError."""
    forgotten = in_a_bundle and store.is_forgotten(user_id)
    events = store.histories((user_id,), length)[0]
    told = store.user(user_id)
    return Known([event.item_id for event in events], None if told is None else told.profile, forgotten, length)


class Histories:
    """The states of users asked for lately. Used from one thread, the event loop's.

    A user who is not held is read from the store, so an event that was acknowledged is in the next answer whatever was
    held. While the store is away, users who are not held are strangers: it alone knows who is to be forgotten.
    """

    def __init__(self, dataset: Dataset, items: LiveItems, store: Store, length: int, most_users: int) -> None:
        """length: events a user; most_users: states held."""
        self._dataset, self._items, self._store = dataset, items, store
        self._length, self._most_users = length, most_users
        self._states: OrderedDict[str, UserState] = OrderedDict()
        self._versions = 0
        self.held_bytes = 0
        """Bytes of the states held."""

    def __len__(self) -> int:
        """States held."""
        return len(self._states)

    def of(self, user_id: str) -> UserState:
        """The state of a user; an empty one for a stranger."""
        state = self._states.get(user_id)
        if state is not None:
            self._states.move_to_end(user_id)
            return state
        try:
            known = read_known(self._store, user_id, self._length, user_id in self._dataset.users)
        except StoreUnavailableError:
            self._versions += 1
            return UserState(np.empty(0, np.int64), None, self._versions)
        return self.learn(user_id, known)

    def learn(self, user_id: str, known: Known) -> UserState:
        """Hold what was read of a user just now."""
        self._versions += 1
        rows, profile = (np.empty(0, np.int64), None) if known.forgotten else self._of_bundle(user_id)
        later = self._items.known_rows(known.item_ids)
        profile = profile if known.told is None else known.told or None
        state = UserState(np.concatenate([rows, later])[-self._length :], profile, self._versions)
        self._hold(user_id, state)
        if len(self._states) > self._most_users:
            self._let_go(next(iter(self._states)))
        return state

    def happened(self, events: Iterable[Event]) -> None:
        """Events that the store has acknowledged; only users who are held need to hear of them."""
        for event in events:
            state = self._states.get(event.user_id)
            if state is not None and len(rows := self._items.known_rows((event.item_id,))):
                self._versions += 1
                newest = np.append(state.rows, rows)[-self._length :]
                self._hold(event.user_id, UserState(newest, state.profile, self._versions))

    def drop(self, user_ids: Sequence[str] | None) -> None:
        """Read these users anew when they are next asked for; None: all."""
        if user_ids is None:
            self._states.clear()
            self.held_bytes = 0
        for user_id in user_ids or ():
            self._let_go(user_id)

    def _hold(self, user_id: str, state: UserState) -> None:
        """A user who is held already keeps their place in the order of being asked for."""
        before = self._states.get(user_id)
        self.held_bytes += _bytes_of(state) - (0 if before is None else _bytes_of(before))
        self._states[user_id] = state

    def _let_go(self, user_id: str) -> None:
        state = self._states.pop(user_id, None)
        self.held_bytes -= 0 if state is None else _bytes_of(state)

    def _of_bundle(self, user_id: str) -> tuple[NDArray[np.int64], str | None]:
        if user_id not in self._dataset.users:
            return np.empty(0, np.int64), None
        row = self._dataset.users.row(user_id)
        rows = self._dataset.histories[row].astype(np.int64)
        return self._items.current(rows), self._dataset.user_catalogue.texts[row] or None


def _bytes_of(state: UserState) -> int:
    return _BYTES_A_USER + state.rows.nbytes + len(state.profile or "")
