"""Sufficient statistics of the closed-form models, as sums over users: each client sends its part of the sum.

EASE needs G = XᵀX; the graph filter needs Σ_u x_u x_uᵀ / n_u and the number of users of each item. Both matrices are
symmetric, so only one triangle is sent. The sums are exact, and so the models equal those of the pooled events.

G is sent after its diagonal, the number of users of each item, which is part of the result anyway: two items have no
more users in common than the rarer one has, so every entry has as many bits as that count needs.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, DataError
from lanner.federated.privacy import Privacy, Release
from lanner.federated.secure_sum import FixedPoint
from lanner.inference.scoring_model import ScoringModel, SparseRows, tie_break
from lanner.inference.sparse import history_matrix
from lanner.models.ease import inverse_of
from lanner.models.graph_filter import GraphFilterConfig, low_pass_factors
from lanner.models.linear import strongest_entries

Weighting = Literal["event", "user"]
"""``event``: x xᵀ for each user. ``user``: x xᵀ / n, so that each user's term has Frobenius norm 1."""


@dataclass(frozen=True)
class Statistics:
    """gram_II: the weighted sum of x xᵀ, float64, symmetric."""

    gram_II: NDArray[np.float64]
    weighting: Weighting

    @classmethod
    def of(cls, dataset: Dataset, weighting: Weighting) -> "Statistics":
        """Statistics of a dataset's users. Raises ``ConfigError`` for an unknown weighting."""
        if weighting not in ("event", "user"):
            raise ConfigError(f"weighting must be one of event, user, received {weighting!r}")
        matrix = history_matrix(dataset.histories, dataset.num_items).astype(np.float64)
        if weighting == "user":
            lengths = np.maximum(np.diff(matrix.indptr), 1)
            return cls((matrix.T @ sp.diags(1 / lengths) @ matrix).toarray(), weighting)
        return cls((matrix.T @ matrix).toarray(), weighting)


def users_of_items(dataset: Dataset, most_users: int) -> NDArray[np.float64]:
    """The number of users of each item, ``[I]``: what a client adds to the first sum.

    most_users: public bound of the users that one client holds; see ``counts_form``.

    Raises:
        DataError: the dataset has more users than ``most_users``, so the sum could be wrong.
    """
    matrix = history_matrix(dataset.histories, dataset.num_items)
    if (users := int((np.diff(matrix.indptr) > 0).sum())) > most_users:
        raise DataError(f"the client has {users} users, and the clients agreed on at most {most_users} each")
    return np.asarray(matrix.sum(axis=0), np.float64).ravel()


def counts_form(num_items: int, clients: int, most_users: int) -> FixedPoint:
    """Encoding of ``users_of_items``: words for ``clients`` · ``most_users``, both public, which no count exceeds.

    Raises:
        ConfigError: a number is below 1.
    """
    if min(num_items, clients, most_users) < 1:
        raise ConfigError(f"items, clients and users must be at least 1, received {num_items}, {clients}, {most_users}")
    return FixedPoint(1, ((num_items, (clients * most_users).bit_length()),), signed=False)


@dataclass(frozen=True)
class Layout:
    """Which entries of a symmetric matrix of sums are sent, in which order and encoding.

    order: the items, as rows of the matrix; of the matrix in this order, the lower triangle is sent row by row.
    counts_I: the diagonal, if it is known and not sent again.
    """

    order: NDArray[np.int64]
    form: FixedPoint
    weighting: Weighting
    num_items: int
    counts_I: NDArray[np.float64] | None = None

    @classmethod
    def by_event(cls, counts_I: NDArray[np.float64]) -> "Layout":
        """Of G, whose diagonal is ``counts_I``: for each entry as many bits as the lower of its two counts needs."""
        order = np.argsort(-counts_I, kind="stable")[: np.count_nonzero(counts_I > 0)]
        bits = [int(count).bit_length() for count in counts_I[order]]
        runs = tuple(
            (sum(row for row, _ in rows), width) for width, rows in groupby(enumerate(bits), key=lambda one: one[1])
        )
        form = FixedPoint(1, tuple(run for run in runs if run[0]), signed=False)
        return cls(order, form, "event", len(counts_I), counts_I)

    @classmethod
    def by_user(cls, num_items: int) -> "Layout":
        """Of sums weighted by user: 64 bits in steps of 2^-32, for fewer than 2^31 users."""
        form = FixedPoint(2.0**32, ((num_items * (num_items + 1) // 2, 64),))
        return cls(np.arange(num_items), form, "user", num_items)

    def values(self, statistics: Statistics) -> NDArray[np.float64]:
        """What is sent of ``statistics``, ``[form.size]``. Raises ``ConfigError`` if those are of another kind."""
        received = statistics.weighting, len(statistics.gram_II)
        if received != (self.weighting, self.num_items):
            raise ConfigError(
                f"the sum is weighted by {self.weighting} over {self.num_items} items, received sums by {received[0]} "
                f"over {received[1]} items"
            )
        values: NDArray[np.float64] = statistics.gram_II[np.ix_(self.order, self.order)][self._sent]
        return values

    def statistics(self, total: NDArray[np.float64]) -> Statistics:
        """The sum over all clients as a matrix. Raises ``ConfigError`` if ``total`` has another size."""
        if total.shape != (self.form.size,):
            raise ConfigError(
                f"the sum over {self.num_items} items has {self.form.size} values, received {list(total.shape)}"
            )
        lower = np.zeros((len(self.order),) * 2)
        lower[self._sent] = total
        gram_II = np.zeros((self.num_items,) * 2)
        gram_II[np.ix_(self.order, self.order)] = lower + np.tril(lower, -1).T
        if self.counts_I is not None:
            gram_II[np.diag_indices(self.num_items)] = self.counts_I
        return Statistics(gram_II, self.weighting)

    @cached_property
    def _sent(self) -> NDArray[np.bool_]:
        return np.tri(len(self.order), k=0 if self.counts_I is None else -1, dtype=np.bool_)


def ease(statistics: Statistics, regularisation: float, kept: int = 2000) -> ScoringModel:
    """EASE (Steck, WWW 2019) from the sums; with weighting ``event``, identical to that of the pooled events.

    Raises:
        ConfigError: ``regularisation`` is not a positive number.
    """
    if not 0 < regularisation < math.inf:
        raise ConfigError(f"regularisation must be a positive number, received {regularisation}")
    system = statistics.gram_II.astype(np.float32)
    system[np.diag_indices_from(system)] += np.float32(regularisation)
    weights_II = inverse_of(system)
    weights_II /= -weights_II.diagonal().copy()
    np.fill_diagonal(weights_II, 0)
    popularity_I = np.maximum(statistics.gram_II.diagonal(), 0).astype(np.float32)
    return _model(strongest_entries(weights_II, kept), popularity_I)


def graph_filter(
    statistics: Statistics, degree_I: NDArray[np.floating], config: GraphFilterConfig | None = None
) -> ScoringModel:
    """The model of ``models.graph_filter``, from sums weighted by user. degree_I: users of each item.

    The singular vectors are exact, where that model iterates: ``power_iterations`` and ``seed`` have no effect.

    Raises:
        ConfigError: the sums are not weighted by user, ``degree_I`` is of another number of items, or
            ``user_exponent`` is not 1: the sums have each user's degree to the power of −1.
    """
    config = config or GraphFilterConfig()
    if statistics.weighting != "user" or degree_I.shape != (len(statistics.gram_II),):
        raise ConfigError(
            f"the graph filter needs sums weighted by user and the users of each of {len(statistics.gram_II)} items, "
            f"received sums weighted by {statistics.weighting} and {list(degree_I.shape)} numbers"
        )
    if config.user_exponent != 1:
        raise ConfigError(f"sums weighted by user need user_exponent=1, received {config.user_exponent:g}")
    divisor_I = np.maximum(degree_I, 1)
    filter_II = statistics.gram_II * divisor_I[:, None] ** -0.5 * divisor_I**-0.5
    linear_II = (filter_II * divisor_I**config.popularity_exponent).astype(np.float32)
    factors = low_pass_factors(config, *_leading(filter_II, config.rank), divisor_I.astype(np.float32))
    return _model(strongest_entries(linear_II, config.neighbours), degree_I.astype(np.float32), factors)


def _leading(filter_II: NDArray[np.float64], rank: int) -> tuple[float, NDArray[np.float32]]:
    """The largest eigenvalue, and the eigenvectors of the ``rank`` largest that are not 0, largest first."""
    size = len(filter_II)
    values, vectors = eigh(filter_II, subset_by_index=[size - min(max(rank, 1), size), size - 1])
    above = values > size * np.finfo(np.float64).eps * values[-1]
    return float(values[-1]), vectors[:, above][:, ::-1][:, :rank].astype(np.float32)


def private(statistics: Statistics, release: Release, privacy: Privacy) -> Statistics:
    """Denoise sums: keep the eigenvectors with eigenvalues above the largest that noise alone would have.

    A symmetric noise matrix with standard deviation σ has eigenvalues up to 2 σ √I (Wigner). This bound is public, so
    denoising costs no privacy.
    """
    values, vectors = np.linalg.eigh(statistics.gram_II)
    above = values > 2 * release.sigma(privacy) * np.sqrt(len(values))
    return Statistics((vectors[:, above] * values[above]) @ vectors[:, above].T, statistics.weighting)


def _model(
    item_to_item: SparseRows,
    popularity_I: NDArray[np.float32],
    factors: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> ScoringModel:
    """factors: of scores that are added to those of ``item_to_item``, ``[I, K]`` each."""
    from_history_IK, to_target_IK = factors or (np.zeros((len(popularity_I), 0), np.float32),) * 2
    bias_I = tie_break(popularity_I, float(np.max(item_to_item.values, initial=0)))
    rank = from_history_IK.shape[1]
    return ScoringModel(
        from_history_IK, to_target_IK, bias_I, popularity_I, (rank,), normalises=False, item_to_item=item_to_item
    )
