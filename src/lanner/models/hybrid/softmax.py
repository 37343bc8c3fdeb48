"""Hide-one softmax: predicts a chosen item from the user's other items and attributes; for small catalogues.

::

    p(j | u, c) = softmax over the items that u has not chosen, and c, of
                  b_j + Σ_{i chosen, i ≠ c} (W_ij + Σ_a s_a V_aij) + Σ_a s_a A_aj        a: values of u's attributes

For each user and each item c chosen, the loss is −log p(c | u, c): a multinomial logistic regression, convex, with a
quadratic penalty, solved by L-BFGS. It is linear in the history for given attributes. Neighbouring ranges of a number
are shrunk towards each other (a random-walk prior), so ranges may be fine.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import minimize

from lanner.data.catalogue import Catalogue
from lanner.inference.sparse import attribute_matrix, with_attributes

_MAX_SCORES = 20_000_000
"""Scores held in memory, 80 MB; if there are more events, as many as fit are sampled."""
_MAX_WEIGHTS = 5_000_000
"""Maximum number of weights V."""
_ITERATIONS = 300
_TOLERANCE = 1e-7
_LEVEL = 0.1
"""Penalty on the values of ranges themselves, relative to other values: differences are penalised already."""


@dataclass(frozen=True)
class Penalties:
    """Factors of the squared weights, in units of one event. ridge: W and A. smooth: differences of A between
    neighbouring ranges. pairs: V, and ten times that for differences of V; 0: V is 0.
    """

    ridge: float
    smooth: float
    pairs: float


def hide_one_softmax(
    matrix: sp.csr_matrix, people: Catalogue, exponent: float, penalties: Penalties
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """W, A and V stacked in the row order of ``ScoringModel.item_to_item``, float32 ``[R, I]``, and b ``[I]``.

    matrix: ones where a user chose an item, csr ``[U, I]``. exponent: an event of a user with n of them weighs
    n^−exponent. Users with a single item provide no context and are left out.
    """
    matrix = matrix.tocsr()
    lengths = np.diff(matrix.indptr)
    users = np.flatnonzero(lengths >= 2)
    chosen = matrix[users]
    num_items, num_values = chosen.shape[1], len(people.kinds)
    rows = num_items + num_values
    if penalties.pairs and num_values * num_items**2 <= _MAX_WEIGHTS:
        rows += num_values * num_items
    attributes = attribute_matrix(people.values.take(users), people.kinds)
    task = _Task.of(chosen, attributes, rows, exponent)
    penalty = _penalty(people, num_items, rows, penalties)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights_RI = flat.reshape(rows + 1, num_items)
        loss, gradient = task.loss(weights_RI.astype(np.float32))
        pulled = penalty @ weights_RI
        total = (loss + float(np.vdot(weights_RI, pulled))) / task.total
        return total, ((gradient + 2 * pulled) / task.total).ravel()

    start = np.zeros((rows + 1) * num_items)
    if task.total:
        options = {"maxiter": _ITERATIONS, "ftol": _TOLERANCE, "gtol": _TOLERANCE}
        start = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    solved = start.reshape(rows + 1, num_items).astype(np.float32)
    return solved[:rows], solved[rows]


@dataclass(frozen=True)
class _Task:
    """N events, each hidden in turn. Scores without the hidden item are the full scores minus its contribution.

    known: all features of each user, csr ``[U, R]``. own: the part of them that comes from the hidden item, csr
    ``[N, R]``. events: ones where an event is the user's, csr ``[U, N]``. user_N, item_N: user and item of each event.
    barred_NI: −inf where the user has the item, except the hidden one. weight_N: of each event.
    """

    known: sp.csr_matrix
    own: sp.csr_matrix
    events: sp.csr_matrix
    user_N: NDArray[np.int64]
    item_N: NDArray[np.int32]
    barred_NI: NDArray[np.float32]
    weight_N: NDArray[np.float32]

    @classmethod
    def of(cls, chosen: sp.csr_matrix, attributes: sp.csr_matrix, rows: int, exponent: float) -> "_Task":
        users, num_items = chosen.shape
        lengths = np.diff(chosen.indptr)
        user_N, item_N = np.repeat(np.arange(users), lengths), chosen.indices
        most = max(_MAX_SCORES // max(num_items, 1), 1)
        if len(user_N) > most:
            drawn = np.sort(np.random.default_rng(0).permutation(len(user_N))[:most])
            user_N, item_N = user_N[drawn], item_N[drawn]
        number, ones = np.arange(len(user_N)), np.ones(len(user_N), np.float32)
        barred_NI = np.where(chosen.toarray()[user_N] > 0, np.float32(-np.inf), np.float32(0))
        barred_NI[number, item_N] = 0
        hidden = sp.csr_matrix((ones, (number, item_N)), shape=(len(number), num_items))
        own = with_attributes(hidden, attributes[user_N], rows)
        own.data[(own.indices >= num_items) & (own.indices < num_items + attributes.shape[1])] = 0
        own.eliminate_zeros()
        events = sp.csr_matrix((ones, (user_N, number)), shape=(users, len(number)))
        weight_N = (lengths[user_N] ** -exponent).astype(np.float32)
        return cls(with_attributes(chosen, attributes, rows), own, events, user_N, item_N, barred_NI, weight_N)

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return float(self.weight_N.sum())

    def loss(self, weights_RI: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
        """The weighted sum of −log p, and its gradient; the last row of the weights is the bias."""
        weights_RI, bias_I = weights_RI[:-1], weights_RI[-1]
        hidden = np.arange(len(self.user_N)), self.item_N
        scores_NI = (self.known @ weights_RI)[self.user_N] - self.own @ weights_RI + bias_I + self.barred_NI
        scores_NI -= scores_NI.max(axis=1, keepdims=True)
        right_N = scores_NI[hidden].copy()
        np.exp(scores_NI, out=scores_NI)
        sums_N = scores_NI.sum(axis=1)
        loss = float((self.weight_N * (np.log(sums_N) - right_N)).sum())
        scores_NI *= (self.weight_N / sums_N)[:, None]
        scores_NI[hidden] -= self.weight_N
        gradient = self.known.T @ (self.events @ scores_NI) - self.own.T @ scores_NI
        return loss, np.vstack([gradient, scores_NI.sum(axis=0)]).astype(np.float64)


def _penalty(people: Catalogue, num_items: int, rows: int, penalties: Penalties) -> sp.csr_matrix:
    """The quadratic form of the penalty over the rows of the weights; the bias is not penalised."""
    blocks = [sp.eye_array(num_items) * penalties.ridge, _of_values(people, penalties.ridge, penalties.smooth)]
    if rows > num_items + len(people.kinds):
        of_pairs = _of_values(people, penalties.pairs, 10 * penalties.pairs)
        blocks.append(sp.kron(of_pairs, sp.eye_array(num_items)))
    return sp.csr_matrix(sp.block_diag([*blocks, sp.csr_array((1, 1))], format="csr"))


def _of_values(people: Catalogue, ridge: float, smooth: float) -> sp.csr_array:
    blocks = []
    for one in people.attributes.values():
        size = len(one.names)
        if one.edges:
            differences = sp.eye_array(size - 1, size, k=1) - sp.eye_array(size - 1, size)
            blocks.append(sp.eye_array(size) * (_LEVEL * ridge) + smooth * (differences.T @ differences))
        else:
            blocks.append(sp.eye_array(size) * ridge)
    return sp.csr_array(sp.block_diag(blocks, format="csr")) if blocks else sp.csr_array((0, 0))
