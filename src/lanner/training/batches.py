"""Batches that are a function of (seed, step), so that a run can resume at any step."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged


@dataclass(frozen=True)
class Batch:
    """Some users with part of their history hidden.

    rows: int64 ``[B]``, indices into the users drawn from. users: the visible part. row, item: int64 ``[P]``, the
    hidden items: row in the batch, and item.
    """

    rows: NDArray[np.int64]
    users: UserBatch
    row: NDArray[np.int64]
    item: NDArray[np.int64]


class UserBatches:
    """Every user once per epoch in random order; each item of a history is hidden with probability ``hide``.

    Users with fewer than two distinct items are skipped: with one, nothing would remain to predict it from.
    """

    def __init__(self, users: UserBatch, batch_users: int, hide: float, seed: int) -> None:
        self._users = replace(users, history=_distinct(users.history), weights=None, seen=None)
        self._able = np.flatnonzero(self._users.history.lengths >= 2)
        self._batch_users, self._hide, self._seed = batch_users, hide, seed

    @property
    def steps_per_epoch(self) -> int:
        return max(1, -(-len(self._able) // self._batch_users))

    def __len__(self) -> int:
        return len(self._able)

    def size_of(self, step: int) -> int:
        """Number of users in the batch of a step."""
        first = step % self.steps_per_epoch * self._batch_users
        return min(self._batch_users, len(self._able) - first)

    def at(self, step: int) -> Batch:
        """The batch of a step; deterministic."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(self._able)
        rows = order[place * self._batch_users : (place + 1) * self._batch_users]
        batch = self._users.take(rows)
        history = batch.history
        hidden = np.random.default_rng((self._seed, 1, step)).random(len(history.values)) < self._hide
        owner = history.row_of_value
        seen = Ragged.from_pairs(owner[~hidden], history.values[~hidden], len(rows))
        visible = replace(batch, history=seen)
        return Batch(rows, visible, owner[hidden], history.values[hidden].astype(np.int64))


def _distinct(history: Ragged) -> Ragged:
    """Each list sorted, without duplicates."""
    width = int(history.values.max(initial=0)) + 1
    keys = np.unique(history.row_of_value * width + history.values)
    return Ragged.from_pairs(keys // width, keys % width, len(history))


class TextBatches:
    """Every item once per epoch in random order, in steps of about equal token counts."""

    def __init__(self, items: NDArray[np.integer], tokens: NDArray[np.integer], budget: int, seed: int) -> None:
        """items, tokens: item rows and the tokens of their texts, ``[N]``. budget: tokens per step."""
        self._items, self._tokens, self._seed = items.astype(np.int64), tokens, seed
        self.steps_per_epoch = max(1, round(int(tokens.sum()) / budget))

    def at(self, step: int) -> NDArray[np.int64]:
        """The items of a step; deterministic."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self._seed, 5, epoch)).permutation(len(self._items))
        ends = np.cumsum(self._tokens[order])
        middles = ends - self._tokens[order] / 2
        share = np.minimum((middles * self.steps_per_epoch / ends[-1]).astype(np.int64), self.steps_per_epoch - 1)
        items: NDArray[np.int64] = self._items[order[share == place]]
        return items
