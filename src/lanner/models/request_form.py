"""A hybrid in the form that answers requests: the items' side computed once and for all, the user's side a short sum.

With the views laid side by side and their weights folded into the targets, the weighted sum of the views is one inner
product, and the first layer of the concat head falls into a user half and an item half, exactly::

    u = 1/|N| Σ_{i ∈ N} source_i + f W_profile
    score(u, i) = u · target_i + bias_i + out · relu(W_user LN(u) + b + item_half_i)

Nothing of it needs torch, the graph or a training set (``request_network.py`` makes it of a fitted network). Every
compressed variant is of this form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from lanner.data.interactions import UserBatch
from lanner.models.linear import history_matrix, sum_of_rows
from lanner.prefetch import fetch_row

LAYER_NORM = 1e-5
ITEM_TABLES = frozenset(
    f"{table}{part}" for table in ("source", "target", "bias", "head.item") for part in ("", ".codes", ".scale")
)
"""Those of ``RequestForm.arrays`` that have a row an item."""
_PAIR_FLOATS = 1 << 22
"""Hidden numbers of user-item pairs in memory at a time."""


@dataclass(frozen=True)
class Int8Rows:
    """A table whose row r is ``codes[r] · scale[r]``: codes int8 ``[I, D]``, scale float32 ``[I]``."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, table_ID: NDArray[np.float32], largest_code: int = 127) -> Self:
        """Nearest codes; the largest number of each row becomes ±largest_code, none errs by more than half a code."""
        largest = np.abs(table_ID).max(axis=1, initial=0.0)
        scale = np.where(largest > 0, largest / largest_code, 1).astype(np.float32)
        return cls(np.rint(table_ID / scale[:, None]).astype(np.int8), scale)


Table = NDArray[np.float32] | Int8Rows


def take(table: Table, rows: NDArray[np.integer] | slice = slice(None)) -> NDArray[np.float32]:
    """Rows of a table as float32 ``[n, D]``."""
    if isinstance(table, Int8Rows):
        return table.codes[rows] * table.scale[rows, None]
    return table[rows]


def through(features_BF: NDArray[np.float32], table: Table) -> NDArray[np.float32]:
    """``features_BF`` times a table of F rows, float32 ``[B, D]``."""
    if not isinstance(table, Int8Rows):
        return features_BF @ table
    out = np.zeros((len(features_BF), table.codes.shape[1]), np.float32)
    _add_codes(features_BF, table.scale, table.codes, out)
    return out


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _add_codes(
    features_BF: NDArray[np.float32],
    scale_F: NDArray[np.float32],
    codes_FD: NDArray[np.int8],
    out_BD: NDArray[np.float32],
) -> None:
    """Add features times a table; four rows at a time, so that sums are read and written a fourth as often."""
    for line in range(len(features_BF)):
        weights, out = features_BF[line] * scale_F, out_BD[line]
        whole = len(weights) - len(weights) % 4
        for row in range(0, whole, 4):
            if row + 11 < whole:
                for ahead in range(row + 8, row + 12):
                    fetch_row(codes_FD, ahead)
            for column in range(len(out)):
                out[column] += (
                    weights[row] * np.float32(codes_FD[row, column])
                    + weights[row + 1] * np.float32(codes_FD[row + 1, column])
                    + weights[row + 2] * np.float32(codes_FD[row + 2, column])
                    + weights[row + 3] * np.float32(codes_FD[row + 3, column])
                )
        for row in range(whole, len(weights)):
            for column in range(len(out)):
                out[column] += weights[row] * np.float32(codes_FD[row, column])


@dataclass(frozen=True)
class RequestHead:
    """The concat head: user_DH ``[D, H]``, bias_H ``[H]``, item_IH ``[I, H]`` (the precomputed half), out_H ``[H]``.

    epsilon_V: what the layer norm adds to the variance of each view; None: ``LAYER_NORM`` for all.
    """

    user_DH: NDArray[np.float32]
    bias_H: NDArray[np.float32]
    item_IH: Table
    out_H: NDArray[np.float32]
    epsilon_V: NDArray[np.float32] | None = None

    def hidden(self, users_BD: NDArray[np.float32], view_sizes: tuple[int, ...]) -> NDArray[np.float32]:
        """The user half of the hidden layer, ``[B, H]``."""
        return normalised(users_BD, view_sizes, self.epsilons(len(view_sizes))) @ self.user_DH + self.bias_H

    def epsilons(self, num_views: int) -> Sequence[float]:
        """One for each view."""
        return [LAYER_NORM] * num_views if self.epsilon_V is None else self.epsilon_V.tolist()

    def correction(
        self, users_BD: NDArray[np.float32], view_sizes: tuple[int, ...], items: NDArray[np.integer] | slice
    ) -> NDArray[np.float32]:
        """What the head adds for some items, ``[B, C]``."""
        hidden_BH, item_CH = self.hidden(users_BD, view_sizes), take(self.item_IH, items)
        out = np.empty((len(users_BD), len(item_CH)), np.float32)
        step = max(1, _PAIR_FLOATS // max(1, item_CH.size))
        for first in range(0, len(out), step):
            block = hidden_BH[first : first + step, None] + item_CH[None]
            out[first : first + step] = np.maximum(block, 0, out=block) @ self.out_H
        return out


@dataclass(frozen=True)
class ItemRows:
    """The rows that a form has of N items: source_ND, target_ND ``[N, D]``, bias_N ``[N]``, half_NH: the head's."""

    source_ND: NDArray[np.float32]
    target_ND: NDArray[np.float32]
    bias_N: NDArray[np.float32]
    half_NH: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Reduction:
    """How rows of the full form become those of a smaller one; what is None stays as it is.

    source_DR, target_DR: linear maps, the latter after mean_D is taken off. neurons: those of the head that are kept.
    bias_gain: ``[1]``, 0 where the form's biases are no function of the full one's.
    """

    source_DR: NDArray[np.float32] | None = None
    target_DR: NDArray[np.float32] | None = None
    mean_D: NDArray[np.float32] | None = None
    neurons: NDArray[np.int64] | None = None
    bias_gain: NDArray[np.float32] | None = None

    def __call__(self, rows: ItemRows) -> ItemRows:
        """Rows of new items, reduced as the catalogue's were."""
        source, target, half = rows.source_ND, rows.target_ND, rows.half_NH
        if self.source_DR is not None and self.target_DR is not None and self.mean_D is not None:
            source, target = source @ self.source_DR, np.asarray((target - self.mean_D) @ self.target_DR, np.float32)
        if self.neurons is not None and half is not None:
            half = half[:, self.neurons]
        return ItemRows(source, target, rows.bias_N if self.bias_gain is None else rows.bias_N * self.bias_gain, half)


@dataclass(frozen=True)
class RequestForm:
    """source_ID, target_ID: ``[I, D]``, the views side by side. bias_I: float32 ``[I]``.

    view_sizes: dimensions of each view, whose sum is D. head: None where it adds nothing. profile_FD: ``[F, D]``, from
    the features of a profile text to what it adds to a user; None where profiles are not read. reduction: from the full
    form, which has none.
    """

    source_ID: Table
    target_ID: Table
    bias_I: NDArray[np.float32]
    view_sizes: tuple[int, ...]
    head: RequestHead | None = None
    profile_FD: Table | None = None
    reduction: Reduction = Reduction()

    @property
    def num_items(self) -> int:
        return len(self.bias_I)

    @property
    def dimensions(self) -> int:
        return sum(self.view_sizes)

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays().values())

    def users(self, batch: UserBatch, features_BF: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """One vector a user, float32 ``[B, D]``, from distinct items of the history and features of a profile."""
        history = history_matrix(batch.history, self.num_items)
        met = np.unique(history.indices)
        history.indices = np.searchsorted(met, history.indices).astype(history.indices.dtype)
        lengths = np.maximum(np.diff(history.indptr), 1).astype(np.float32)
        own: NDArray[np.float32] = sum_of_rows(history, take(self.source_ID, met)) / lengths[:, None]
        return own if features_BF is None or self.profile_FD is None else own + through(features_BF, self.profile_FD)

    def score(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of every item, float32 ``[B, I]``."""
        scores = users_BD @ take(self.target_ID).T + self.bias_I
        return scores if self.head is None else scores + self.head.correction(users_BD, self.view_sizes, slice(None))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, those that are there: what a file keeps."""
        found: dict[str, Table] = {"source": self.source_ID, "target": self.target_ID, "bias": self.bias_I}
        if self.profile_FD is not None:
            found["profile"] = self.profile_FD
        if self.head is not None:
            head = self.head
            found |= {"head.user": head.user_DH, "head.bias": head.bias_H, "head.item": head.item_IH}
            found["head.out"] = head.out_H
            if head.epsilon_V is not None:
                found["head.epsilon"] = head.epsilon_V
        named = {f"reduction.{name}": array for name, array in vars(self.reduction).items() if array is not None}
        for name, table in found.items():
            if isinstance(table, Int8Rows):
                named |= {f"{name}.codes": table.codes, f"{name}.scale": table.scale}
            else:
                named[name] = table
        return named

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], view_sizes: tuple[int, ...]) -> Self:
        """The inverse of ``arrays``."""

        def table(name: str) -> Table:
            codes = arrays.get(f"{name}.codes")
            return arrays[name] if codes is None else Int8Rows(codes, arrays[f"{name}.scale"])

        head = None
        if "head.out" in arrays:
            user, bias, out = (arrays[f"head.{name}"] for name in ("user", "bias", "out"))
            head = RequestHead(user, bias, table("head.item"), out, arrays.get("head.epsilon"))
        reduction = Reduction(**{f.name: arrays.get(f"reduction.{f.name}") for f in fields(Reduction)})
        profile = table("profile") if {"profile", "profile.codes"} & set(arrays) else None
        return cls(table("source"), table("target"), arrays["bias"], view_sizes, head, profile, reduction)

    def map_tables(self, change: Callable[[Table], Table]) -> "RequestForm":
        """The same form with each table of items changed, such as ``Int8Rows.of`` does."""
        head = None if self.head is None else replace(self.head, item_IH=change(self.head.item_IH))
        return replace(self, source_ID=change(self.source_ID), target_ID=change(self.target_ID), head=head)


class RequestScorer:
    """A form behind the one yardstick. ``read_profiles``: profile texts to features ``[B, F]``, where they are read."""

    def __init__(
        self, form: RequestForm, read_profiles: Callable[[Sequence[str]], NDArray[np.float32]] | None = None
    ) -> None:
        # Scoring everything for many users, a table is read often enough to be unpacked once.
        self.form = form.map_tables(take)
        self._read = read_profiles

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for each user, float32 ``[B, I]``."""
        profiles = None if self._read is None or users.profiles is None else self._read(users.profiles)
        return self.form.score(self.form.users(users, profiles))


def normalised(
    users_BD: NDArray[np.float32], view_sizes: tuple[int, ...], epsilons: Sequence[float]
) -> NDArray[np.float32]:
    """Each view's slice with mean 0 and deviation 1, as a layer norm without parameters gives it."""
    parts = np.split(users_BD, np.cumsum(view_sizes)[:-1], axis=1)
    centred = [part - part.mean(axis=1, keepdims=True) for part in parts]
    return np.concatenate(
        [
            c / np.sqrt((c**2).mean(axis=1, keepdims=True) + np.float32(epsilon))
            for c, epsilon in zip(centred, epsilons, strict=True)
        ],
        axis=1,
    )
