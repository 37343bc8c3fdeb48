"""A spectral filter on the user-item graph, without training.

The family of GF-CF (Shen et al., "How powerful is graph convolution for recommendation?", CIKM 2021): a history is a
signal on the items, and recommendations are its low-pass filtered version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.graph.neighbours import item_neighbours
from lanner.inference.scoring_model import ScoringModel, SparseRows, tie_break
from lanner.models.bounds import check_numbers
from lanner.models.linear import training_matrix
from lanner.models.recommender import Recommender, item_popularity

_SPARE_DIMENSIONS = 16
"""Random directions beyond the rank, so that the last kept ones converge too (Halko et al. 2011)."""


@dataclass(frozen=True)
class GraphFilterConfig:
    """The shape of the filter; except for the pruning, the defaults are those published for GF-CF."""

    neighbours: int = 2000
    """Number of largest weights kept in each row of the linear filter."""
    user_exponent: float = 1.0
    """Damping of users with many items: their co-occurrences are divided by their degree to this power."""
    popularity_exponent: float = 0.0
    """Scores of the linear filter are multiplied by the item's degree to this power."""
    rank: int = 256
    """Rank of the ideal low-pass filter; 0: none."""
    low_pass_weight: float = 0.3
    """Weight of the ideal low-pass filter, relative to a linear filter with largest response 1."""
    low_pass_exponent: float = 0.5
    """Scores of the ideal low-pass filter are multiplied by the item's degree to this power."""
    power_iterations: int = 3
    """Power iterations of the randomised SVD behind the ideal low-pass filter; more are more accurate."""
    seed: int = 0
    """Random seed of that SVD."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "graph_filter",
            at_least_1=("neighbours", "power_iterations"),
            at_least_0=("rank", "seed", "low_pass_weight"),
        )


class GraphFilter(Recommender):
    """score = history · (ÑᵀÑ Dᵢ^p + α Dᵢ^−½ V Vᵀ Dᵢ^q) with Ñ = D_u^−a/2 M Dᵢ^−½.

    M is the 0/1 matrix, D its degrees, a ``user_exponent``, p ``popularity_exponent``, q ``low_pass_exponent``, V the
    first ``rank`` right singular vectors of Ñ, α ``low_pass_weight`` times its largest squared singular value. No
    items × items matrix is ever dense: ÑᵀÑ Dᵢ^p is pruned to ``neighbours`` entries a row, V Vᵀ is kept as its factors.
    GF-CF is a = 1, p = 0, q = ½ without pruning.
    """

    name: ClassVar[str] = "graph-filter"

    def __init__(self, config: GraphFilterConfig | None = None) -> None:
        self.config = config or GraphFilterConfig()

    def fit(self, dataset: Dataset, validation: HeldOut | None = None) -> Self:
        matrix = training_matrix(dataset)
        degree_U, degree_I = _degrees(matrix.indptr), _degrees(matrix.tocsc().indptr)
        user_scale = degree_U**-self.config.user_exponent
        linear = item_neighbours(
            matrix,
            neighbours=self.config.neighbours,
            user_scale=user_scale,
            row_scale=degree_I**-0.5,
            column_scale=degree_I ** (self.config.popularity_exponent - 0.5),
            keep_self=True,
        )
        self._linear = SparseRows.of(linear)
        self._from_history_IK, self._to_target_IK = self._low_pass(matrix, user_scale, degree_I)
        return self._fitted(dataset)

    def _low_pass(
        self, matrix: sp.csr_matrix, user_scale: NDArray[np.float32], degree_I: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both factors of the ideal low-pass filter, float32 ``[I, rank]`` each."""
        rank = min(self.config.rank, *matrix.shape)
        if rank == 0:
            return np.empty((matrix.shape[1], 0), np.float32), np.empty((matrix.shape[1], 0), np.float32)
        item_scale = degree_I**-0.5
        squares_K, vectors_IK = leading_subspace(
            matrix, user_scale, item_scale, rank, self.config.power_iterations, self.config.seed
        )
        return low_pass_factors(self.config, squares_K[0], vectors_IK, degree_I)

    def export(self) -> ScoringModel:
        popularity_I = item_popularity(self.dataset)
        return ScoringModel(
            self._from_history_IK,
            self._to_target_IK,
            tie_break(popularity_I, float(np.max(self._linear.values, initial=0))),
            popularity_I,
            (self._to_target_IK.shape[1],),
            normalises=False,
            item_to_item=self._linear,
        )

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        linear = self._linear
        arrays: dict[str, NDArray[Any]] = {"indptr": linear.indptr, "items": linear.items, "responses": linear.values}
        factors = {"from_history": self._from_history_IK, "to_target": self._to_target_IK}
        return arrays | factors, asdict(self.config)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any], dataset: Dataset) -> Self:
        self.config = GraphFilterConfig(**settings)
        self._linear = SparseRows(arrays["indptr"], arrays["items"], arrays["responses"])
        self._from_history_IK, self._to_target_IK = arrays["from_history"], arrays["to_target"]
        return self._fitted(dataset)


def _degrees(indptr: NDArray[np.integer]) -> NDArray[np.float32]:
    """Entries of each row, at least 1 to avoid division by zero."""
    return np.maximum(np.diff(indptr), 1).astype(np.float32)


def low_pass_factors(
    config: GraphFilterConfig, largest: float, vectors_IK: NDArray[np.float32], degree_I: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """α Dᵢ^−½ V and Dᵢ^q V, float32 ``[I, rank]`` each. largest: the largest squared singular value of Ñ."""
    weight = np.float32(config.low_pass_weight * largest)
    to_target_I = degree_I**config.low_pass_exponent
    return vectors_IK * (weight * degree_I**-0.5)[:, None], vectors_IK * to_target_I[:, None]


def leading_subspace(
    matrix: sp.csr_matrix,
    user_scale: NDArray[np.float32],
    item_scale: NDArray[np.float32],
    rank: int,
    iterations: int,
    seed: int,
    initial_IR: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The leading squared singular values of Ñ, largest first, ``[rank]``, and their right vectors ``[I, rank]``.

    Randomised subspace iteration (Halko, Martinsson & Tropp 2011) on ÑᵀÑ, applied as two sparse products. initial_IR:
    approximate vectors to start from.
    """
    scale_I1, scale_U1 = item_scale[:, None], user_scale[:, None]
    width = min(rank + _SPARE_DIMENSIONS, *matrix.shape)
    basis_IK = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    if initial_IR is not None:
        known = initial_IR[:, :width]
        basis_IK[:, : known.shape[1]] = known / np.maximum(np.linalg.norm(known, axis=0), 1e-12)
    for _ in range(iterations):
        smoothed_IK = scale_I1 * (matrix.T @ (scale_U1 * (matrix @ (scale_I1 * basis_IK))))
        basis_IK = np.linalg.qr(smoothed_IK)[0]
    projected_UK = np.sqrt(scale_U1) * (matrix @ (scale_I1 * basis_IK))
    squares, rotation = np.linalg.eigh(projected_UK.T @ projected_UK)
    return squares[::-1][:rank].astype(np.float64), basis_IK @ rotation[:, ::-1][:, :rank]
