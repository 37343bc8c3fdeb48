"""Sufficient statistics of the closed-form models, as sums over users: each client sends its part of the sum.

EASE needs G = XᵀX; the graph filter needs Σ_u x_u x_uᵀ / n_u and the number of users of each item. Both matrices are
symmetric, so only their upper triangles are sent. The sums are exact, and so the models equal those of the pooled
events.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError
from lanner.federated.privacy import Privacy, Release
from lanner.federated.secure_sum import FixedPoint, Words
from lanner.inference.scoring_model import ScoringModel, SparseRows, tie_break
from lanner.inference.sparse import history_matrix
from lanner.models.ease import inverse_of
from lanner.models.linear import strongest_entries

Weighting = Literal["event", "user"]
"""``event``: x xᵀ for each user. ``user``: x xᵀ / n, so that each user's term has Frobenius norm 1."""
FORM: dict[Weighting, FixedPoint] = {"event": FixedPoint(1, 32), "user": FixedPoint(2.0**32, 64)}
"""Encoding of the sums. A user adds at most 1 to an entry, so neither overflows below 2^31 users. Counts are exact,
and each client's ``user`` sums are accurate to 2^-33."""


@dataclass(frozen=True)
class Statistics:
    """gram_II: the weighted sum of x xᵀ, float64, symmetric."""

    gram_II: NDArray[np.float64]
    weighting: Weighting

    @classmethod
    def of(cls, dataset: Dataset, weighting: Weighting) -> "Statistics":
        """Statistics of a dataset's users. Raises ``ConfigError`` for an unknown weighting."""
        _check_weighting(weighting)
        matrix = history_matrix(dataset.histories, dataset.num_items).astype(np.float64)
        if weighting == "user":
            lengths = np.maximum(np.diff(matrix.indptr), 1)
            return cls((matrix.T @ sp.diags(1 / lengths) @ matrix).toarray(), weighting)
        return cls((matrix.T @ matrix).toarray(), weighting)

    def words(self, noise: NDArray[np.float64] | None = None) -> Words:
        """The upper triangle as a client sends it, ``I (I + 1) / 2`` words. noise: added to it."""
        triangle = self.gram_II[_upper_triangle(len(self.gram_II))]
        return FORM[self.weighting].encoded(triangle if noise is None else triangle + noise)

    @classmethod
    def from_words(cls, total: Words, num_items: int, weighting: Weighting) -> "Statistics":
        """Decode the sum over all clients. Raises ``ConfigError`` if ``total`` does not fit ``num_items``."""
        _check_weighting(weighting)
        if total.dtype != FORM[weighting].dtype:
            raise ConfigError(f"a sum by {weighting} has words of {FORM[weighting].dtype}, received {total.dtype}")
        if total.size != (count := num_items * (num_items + 1) // 2):
            raise ConfigError(f"the sum of {num_items} items has {count} words, received {total.size}")
        gram_II = np.zeros((num_items, num_items))
        gram_II[_upper_triangle(num_items)] = FORM[weighting].decoded(total)
        return cls(gram_II + np.triu(gram_II, 1).T, weighting)


def _check_weighting(weighting: str) -> None:
    if weighting not in FORM:
        raise ConfigError(f"weighting must be one of {', '.join(FORM)}, received {weighting!r}")


@lru_cache(maxsize=1)
def _upper_triangle(num_items: int) -> NDArray[np.bool_]:
    """Mask of the upper triangle, including the diagonal."""
    return np.triu(np.ones((num_items, num_items), np.bool_))


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
    return _model(weights_II, statistics, kept)


def graph_filter(statistics: Statistics, degree_I: NDArray[np.floating], kept: int = 2000) -> ScoringModel:
    """One step over the user–item graph, D^−½ Xᵀ D_u^−1 X D^−½, from sums weighted by user. degree_I: users of each.

    Raises:
        ConfigError: the sums are not weighted by user, or ``degree_I`` is of another number of items.
    """
    if statistics.weighting != "user" or degree_I.shape != (len(statistics.gram_II),):
        raise ConfigError(
            f"the graph filter needs sums weighted by user and the users of each of {len(statistics.gram_II)} items, "
            f"received sums weighted by {statistics.weighting} and {list(degree_I.shape)} numbers"
        )
    scale_I = np.maximum(degree_I, 1) ** -0.5
    step_II = (statistics.gram_II * scale_I[:, None] * scale_I).astype(np.float32)
    np.fill_diagonal(step_II, 0)
    return _model(step_II, statistics, kept)


def private(statistics: Statistics, release: Release, privacy: Privacy) -> Statistics:
    """Denoise sums: keep the eigenvectors with eigenvalues above the largest that noise alone would have.

    A symmetric noise matrix with standard deviation σ has eigenvalues up to 2 σ √I (Wigner). This bound is public, so
    denoising costs no privacy.
    """
    values, vectors = np.linalg.eigh(statistics.gram_II)
    above = values > 2 * release.sigma(privacy) * np.sqrt(len(values))
    return Statistics((vectors[:, above] * values[above]) @ vectors[:, above].T, statistics.weighting)


def _model(weights_II: NDArray[np.float32], statistics: Statistics, kept: int) -> ScoringModel:
    rows: SparseRows = strongest_entries(weights_II, min(kept, len(weights_II)))
    popularity_I = np.maximum(statistics.gram_II.diagonal(), 0).astype(np.float32)
    nothing = np.zeros((len(weights_II), 0), np.float32)
    bias_I = tie_break(popularity_I, float(np.max(rows.values, initial=0)))
    return ScoringModel(nothing, nothing, bias_I, popularity_I, normalises=False, item_to_item=rows)
