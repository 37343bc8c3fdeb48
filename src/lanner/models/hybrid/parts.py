"""The closed forms of the hybrid: each a linear map of the history, fitted in seconds.

A ``Kind`` defines how one is fitted, from which settings the search starts and what else it tries. Settings are chosen
one at a time, each on validation alone (``training.joining``).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lanner.graph.neighbours import item_neighbours
from lanner.inference.sparse import sum_of_sparse_rows, with_attributes
from lanner.models.ease import inverse_of
from lanner.models.graph_filter import leading_subspace
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.material import Material
from lanner.models.hybrid.softmax import Penalties, hide_one_softmax
from lanner.models.linear import strongest_entries
from lanner.models.local_ridge import LocalRidge, strongest

Settings = Mapping[str, float]
SOFTMAX = "softmax"
"""The part whose history weights are summed; see ``Choice.sums``."""


@dataclass(frozen=True)
class Linear:
    """score = history · (items + source · targetᵀ) + bias; terms that are None are absent.

    items: csr or dense float32 ``[I, T]``, one column per target of the material; additional rows are those of
    attributes, as in ``SparseRows``. source_IR, target_IR ``[I, R]``. bias_I ``[I]``.
    """

    items: sp.csr_matrix | NDArray[np.float32] | None = None
    source_IR: NDArray[np.float32] | None = None
    target_IR: NDArray[np.float32] | None = None
    bias_I: NDArray[np.float32] | None = None

    @property
    def reads_attributes(self) -> bool:
        """Whether users' attributes change the scores."""
        return self.items is not None and self.items.shape[0] > self.items.shape[1]

    def score(self, history_BI: sp.csr_matrix, attribute_BA: sp.csr_matrix | None = None) -> NDArray[np.float32]:
        """Scores of every item for each history, float32 ``[B, I]``; requires the columns of all items."""
        total: NDArray[np.float32] = np.zeros((history_BI.shape[0], history_BI.shape[1]), np.float32)
        known = history_BI
        if self.items is not None and self.reads_attributes and attribute_BA is not None:
            known = with_attributes(history_BI, attribute_BA, self.items.shape[0])
        if isinstance(self.items, np.ndarray):
            total += known @ self.items[: known.shape[1]]
        elif self.items is not None:
            total += sum_of_sparse_rows(known, self.items)
        if self.source_IR is not None and self.target_IR is not None:
            total += (history_BI @ self.source_IR) @ self.target_IR.T
        if self.bias_I is not None:
            total += self.bias_I
        return total


@dataclass(frozen=True)
class Kind:
    """One closed form. fit: from material and settings. start, grid: settings to start from and to try, in this order.

    suits: whether it applies to this material.
    """

    fit: Callable[[Material, HybridConfig, Settings], Linear]
    start: Settings = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    suits: Callable[[Material, HybridConfig], bool] = lambda material, config: True


def _ridge(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    def make() -> LocalRidge:
        weighted = sp.diags(np.sqrt(material.user_weights(settings["row"]))) @ material.matrix
        return LocalRidge.of(weighted, weighted, config.neighbours, material.targets)

    prior = _prior(material, config, settings["prior"])
    regressions = material.once("ridge", (settings["row"], config.neighbours), make)
    return Linear(regressions.solve(settings["ridge"], dropout=settings["dropout"], prior=prior))


def _order(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    """The local ridge from earlier to later items (SLIT, Choi et al., WWW 2021), plus ``alpha`` XᵀX."""

    def make() -> LocalRidge:
        past, future = past_and_future(material, settings["past"])
        whole = material.matrix * np.sqrt(np.float32(settings["alpha"]))
        return LocalRidge.of(sp.vstack([past, whole]), sp.vstack([future, whole]), config.neighbours, material.targets)

    prior = _prior(material, config, settings["prior"])
    regressions = material.once("order", (settings["past"], settings["alpha"], config.neighbours), make)
    return Linear(regressions.solve(settings["ridge"], prior=prior))


def _prior(material: Material, config: HybridConfig, cooccurrences: float) -> sp.csr_matrix | None:
    """Text cosines scaled to ``cooccurrences`` co-occurrences."""
    near = material.near
    if near is None or cooccurrences == 0:
        return None
    nearest = material.once("prior", config.text_neighbours, lambda: strongest(near, config.text_neighbours))
    return nearest * np.float32(cooccurrences)


def _dense_ridge(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    """B = argmin ‖W½ (X − XB)‖² + ‖D½ B‖² + λ_E ‖B − C‖² with an empty diagonal (L3AE, Moon et al., CIKM 2025).

    W: weights of users. D: ridge and dropout, as in ``LocalRidge.solve``. C: the same regression between texts. With
    P = (XᵀWX + D + λ_E)⁻¹ the solution without the constraint is P (XᵀWX + λ_E C) = I − P (D + λ_E) + λ_E P C, and a
    multiple of P's column makes the diagonal zero.
    """
    weights_U = material.user_weights(settings["row"])
    counts_I = np.asarray(material.matrix.T @ weights_U, np.float32)
    trust = np.float32(settings["prior"] if material.features_IF is not None else 0.0)
    dropout = settings["dropout"] / (1 - settings["dropout"])
    diagonal_I = np.float32(settings["ridge"]) + np.float32(dropout) * counts_I + trust
    targets = material.target_items
    own = (targets, np.arange(len(targets)))
    solve = _ridge_solver(material.matrix, weights_U, diagonal_I, material.targets)
    inverse_IT = solve(None)
    solved_IT = inverse_IT * -diagonal_I[targets]
    if trust and material.features_IF is not None:
        from_IF, to_FI, own_I = _text_ridge(material.features_IF, settings["text_ridge"])
        solved_IT += (trust * solve(from_IF)) @ to_FI[:, targets]
        solved_IT -= inverse_IT * (trust * own_I[targets])
    solved_IT[own] += 1
    solved_IT -= inverse_IT * (solved_IT[own] / inverse_IT[own])
    solved_IT[own] = 0
    return Linear(solved_IT)


def _text_ridge(
    features_IF: NDArray[np.float32], ridge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """EASE between items over their text features, as if these were users: C = from · to − diag(own)."""
    scaled = features_IF / np.float32(np.sqrt(2))  # two blocks of unit length
    system = (scaled.T @ scaled).astype(np.float64) + ridge * np.eye(scaled.shape[1])
    to_FI = np.linalg.solve(system, scaled.T.astype(np.float64)).astype(np.float32)
    leverage_I = np.einsum("if,fi->i", scaled, to_FI)
    to_FI /= 1 - leverage_I
    return scaled, to_FI, leverage_I / (1 - leverage_I)


def _ridge_solver(
    matrix: sp.csr_matrix,
    weights_U: NDArray[np.float32],
    diagonal_I: NDArray[np.float32],
    targets: NDArray[np.int64] | None,
) -> Callable[[NDArray[np.float32] | None], NDArray[np.float32]]:
    """Computes (XᵀWX + D)⁻¹ times a matrix ``[I, N]``; of None: the inverse's columns ``targets`` ``[I, T]``.

    Solved over the users if there are few (Woodbury identity). targets None: all.
    """
    users, items = matrix.shape
    chosen = slice(None) if targets is None else targets
    places = np.arange(items)[chosen]
    if 2 * users > items:
        system = np.asarray((matrix.T @ (sp.diags(weights_U) @ matrix)).toarray(), np.float32)
        system[np.diag_indices_from(system)] += diagonal_I
        if 2 * len(places) > items:
            inverse = inverse_of(system)
            return lambda right_IN: inverse[:, chosen] if right_IN is None else inverse @ right_IN
        factor = cho_factor(system, overwrite_a=True, check_finite=False)
        unit_IT = np.zeros((items, len(places)), np.float32)
        unit_IT[places, np.arange(len(places))] = 1
        return lambda right_IN: np.asarray(
            cho_solve(factor, unit_IT if right_IN is None else right_IN, check_finite=False), np.float32
        )
    scaled_UI = sp.csr_matrix(matrix @ sp.diags(1 / diagonal_I))
    small = np.asarray((scaled_UI @ matrix.T).toarray(), np.float64)
    small[np.diag_indices_from(small)] += 1 / weights_U
    factor = cho_factor(small, overwrite_a=True, check_finite=False)

    def solve(right_IN: NDArray[np.float32] | None) -> NDArray[np.float32]:
        seen_UN = scaled_UI[:, chosen].toarray() if right_IN is None else scaled_UI @ right_IN
        solved_UN = cho_solve(factor, seen_UN.astype(np.float64), check_finite=False).astype(np.float32)
        out_IN = np.asarray(scaled_UI.T @ -solved_UN, np.float32)
        if right_IN is None:
            out_IN[places, np.arange(len(places))] += 1 / diagonal_I[places]
            return out_IN
        return out_IN + right_IN / diagonal_I[:, None]

    return solve


def _filter(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    return Linear(_step(material, config, settings["user"], settings["source"], settings["target"]))


def _step(material: Material, config: HybridConfig, user: float, source: float, target: float) -> sp.csr_matrix:
    """D_i^−source Xᵀ D_u^−user X D_i^−target: one step over the user-item graph, degree-normalised on each side."""
    degree_U = np.maximum(np.diff(material.matrix.indptr), 1).astype(np.float32)
    found = item_neighbours(
        material.matrix,
        neighbours=2 * config.kept,
        user_scale=degree_U ** np.float32(-user),
        row_scale=material.degree_I ** np.float32(-source),
        column_scale=material.degree_I ** np.float32(-target),
    )
    return found if material.targets is None else found.tocsc()[:, material.targets].tocsr()


def _low_pass(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    """ChebyCF (Kim et al., SIGIR 2025): D^−β (c ÑᵀÑ + V g(σ²) Vᵀ) D^β.

    Its response is f(x) = ½ ∓ ½ |1 − 2x|^``flatness``. Beyond the leading directions V it is nearly a line of slope c,
    which one step over the graph gives; on V, g is the difference of f from that line, plus the ideal pass ``ideal``.
    """
    rank = min(config.rank, *material.matrix.shape)
    popularity = settings["popularity"]

    def make() -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        degree_U = np.maximum(np.diff(material.matrix.indptr), 1).astype(np.float32)
        scales = (1 / degree_U, material.degree_I**-0.5)
        initial_IR = material.directions_IR
        iterations = 3 if initial_IR is None else 1
        return leading_subspace(material.matrix, *scales, rank, iterations, config.seed, initial_IR)

    squares, vectors_IR = material.once("subspace", (rank, config.seed), make)

    def response(x: NDArray[np.float64]) -> NDArray[np.float64]:
        bent = 0.5 * np.abs(1 - 2 * x) ** settings["flatness"]
        return np.where(x > 0.5, 0.5 + bent, 0.5 - bent)

    points = np.linspace(0, max(float(squares[-1]), 1e-6), 50)
    slope, offset = np.polyfit(points, response(points), 1)
    gain_R = (response(squares) - offset - slope * squares + settings["ideal"]).astype(np.float32)
    scale = material.degree_I ** np.float32(popularity)
    step = material.once("step", popularity, lambda: _step(material, config, 1.0, 0.5 + popularity, 0.5 - popularity))
    return Linear(step * np.float32(slope), vectors_IR * gain_R / scale[:, None], vectors_IR * scale[:, None])


def _text(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    assert material.near is not None
    powered = material.near.copy() if material.targets is None else material.near.tocsc()[:, material.targets].tocsr()
    powered.data **= np.float32(settings["power"])
    return Linear(powered)


def _softmax(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    penalties = Penalties(settings["ridge"], settings["smooth"], settings["pairs"])
    items, bias_I = hide_one_softmax(material.matrix, material.people, settings["row"], penalties)
    return Linear(items, bias_I=bias_I)


def _popularity(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    return Linear(bias_I=np.log1p(material.users_I))


def _rating(material: Material, config: HybridConfig, settings: Settings) -> Linear:
    """Mean rating of each item, shrunk towards the global mean by ``shrinkage`` pseudo-ratings."""
    assert material.ratings is not None
    items, values = material.ratings
    above = np.bincount(items, values - values.mean(), minlength=material.num_items)
    counts = np.bincount(items, minlength=material.num_items)
    return Linear(bias_I=(above / (counts + settings["shrinkage"])).astype(np.float32))


def past_and_future(material: Material, decay: float, least: float = 0.01) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """For each position in a history the items before and after it, weighted by e^(−decay · distance).

    Float32 csr ``[S, I]`` each, S = Σ (length − 1); weights below ``least`` are left out.
    """
    histories = material.histories
    splits = np.maximum(histories.lengths - 1, 0)
    first_split = np.concatenate([[0], np.cumsum(splits)])
    user, items = histories.row_of_value, histories.values
    place = np.arange(len(items)) - histories.indptr[user]
    shape = (int(first_split[-1]), material.num_items)

    def side(split_at: Callable[[int], NDArray[np.int64]]) -> sp.csr_matrix:
        rows, columns, values = [np.empty(0, np.int64)], [items[:0]], [np.empty(0, np.float32)]
        for distance in range(int(np.log(1 / least) / max(decay, 0.05)) + 1):
            split = split_at(distance)
            inside = np.flatnonzero((split >= 0) & (split < splits[user]))
            rows.append(first_split[user[inside]] + split[inside])
            columns.append(items[inside])
            values.append(np.full(len(inside), np.exp(-decay * distance), np.float32))
        entries = (np.concatenate(rows), np.concatenate(columns))
        return sp.csr_matrix((np.concatenate(values), entries), shape=shape)

    # Split s of a history lies between its positions s and s + 1.
    return side(lambda distance: place + distance), side(lambda distance: place - 1 - distance)


def _has_text(material: Material, config: HybridConfig) -> bool:
    return material.near is not None


KINDS: dict[str, Kind] = {
    "ridge": Kind(
        _ridge,
        {"ridge": 50, "dropout": 0.0, "row": 0.0, "prior": 3.0},
        {"ridge": (15, 150, 400), "prior": (0.0, 1.0, 8.0), "row": (0.3,), "dropout": (0.3,)},
    ),
    "dense-ridge": Kind(
        _dense_ridge,
        {"ridge": 200, "dropout": 0.0, "row": 0.4, "prior": 200, "text_ridge": 10},
        {"ridge": (100, 500), "prior": (0, 600, 1500), "dropout": (0.3,), "row": (0.7,)},
        lambda material, config: material.num_items <= config.dense_items,
    ),
    "filter": Kind(
        _filter,
        {"user": 0.5, "source": 0.5, "target": 0.3},
        {"target": (0.1, 0.2, 0.45), "user": (0.3, 1.0), "source": (0.35, 0.7)},
    ),
    "low-pass": Kind(
        _low_pass,
        {"popularity": 0.4, "flatness": 1.5, "ideal": 0.2},
        {"popularity": (0.2,), "ideal": (0.0, 0.4)},
        lambda material, config: min(material.matrix.shape) > 2 * config.rank,
    ),
    "order": Kind(
        _order,
        {"past": 0.7, "alpha": 0.3, "ridge": 50, "prior": 1.0},
        {"alpha": (0.1, 1.0), "past": (0.4, 1.2), "prior": (0.0, 3.0, 8.0), "ridge": (20, 150)},
        lambda material, config: material.has_order,
    ),
    "text": Kind(_text, {"power": 2}, {"power": (1, 4)}, _has_text),
    SOFTMAX: Kind(
        _softmax,
        {"row": 1.0, "ridge": 0.3, "smooth": 3.0, "pairs": 3.0},
        {"pairs": (0.0, 10.0), "ridge": (0.1, 1.0), "smooth": (10.0,), "row": (0.5,)},
        lambda material, config: material.num_items <= config.softmax_items,
    ),
    "popularity": Kind(_popularity),
    "rating": Kind(_rating, {"shrinkage": 5}, suits=lambda material, config: material.ratings is not None),
}
"""Closed forms by name."""


def kept_rows(
    weighted: Sequence[tuple[sp.csr_matrix | NDArray[np.float32], np.float32]], count: int
) -> tuple[sp.csr_matrix | None, float]:
    """The ``count`` strongest entries of each row of a weighted sum, and the share of absolute weight that was pruned.

    Rows of attributes, if any, follow those of items.
    """
    if not weighted:
        return None, 0.0
    if not weighted[0][0].shape[1]:
        return sp.csr_matrix(weighted[0][0].shape, dtype=np.float32), 0.0
    if any(isinstance(items, np.ndarray) for items, _ in weighted):
        rows, num_items = max(items.shape for items, _ in weighted)
        total: NDArray[np.float32] = np.zeros((rows, num_items), np.float32)
        for items, weight in weighted:
            total[: items.shape[0]] += (items if isinstance(items, np.ndarray) else items.toarray()) * weight
        kept = strongest_entries(total, count)
        matrix = sp.csr_matrix((kept.values, kept.items, kept.indptr), shape=total.shape)
        matrix.eliminate_zeros()  # values that no user has
        return matrix, kept.lost
    whole = sp.csr_matrix(sum(items * weight for items, weight in weighted))
    found = strongest(whole, count)
    size = float(np.abs(whole.data).sum())
    return found, 1 - float(np.abs(found.data).sum()) / size if size else 0.0
