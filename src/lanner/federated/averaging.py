"""Federated averaging of item vectors; what is known of a user never leaves its client.

The model is the graph view's smallest form: a user is the mean of the vectors of its items, scores are inner products,
and the loss is the softmax over all items of each item given the rest of its history. A round: clients train on their
users, send what changed, and the server adds the mean (McMahan et al., AISTATS 2017). Changes may be sent sparse and in
8 bits; what was left out stays with the client and is added to the next change (error feedback, Karimireddy et al.,
ICML 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.inference.scoring_model import ScoringModel, tie_break

_INDEX_BYTES, _SCALE_BYTES = 4, 4


@dataclass(frozen=True)
class AveragingConfig:
    """How rounds go."""

    dimensions: int = 64
    rounds: int = 20
    local_epochs: int = 1
    users_per_step: int = 32
    learning_rate: float = 0.5
    temperature: float = 0.1
    share: float = 1.0
    """Share of the entries of a change that are sent; below 1 as indices and 8-bit values."""
    seed: int = 0


@dataclass(frozen=True)
class Change:
    """What a client sends: either all of it, or the largest entries. bytes: on the wire."""

    delta_ID: NDArray[np.float32]
    bytes: int


class Client:
    """One holder of users. matrix: 0/1, csr ``[users, I]``."""

    def __init__(self, matrix: sp.csr_matrix, config: AveragingConfig, seed: int) -> None:
        self._matrix = matrix[np.diff(matrix.indptr) > 1].astype(np.float32)
        self._config, self._random = config, np.random.default_rng(seed)
        self._owed_ID: NDArray[np.float32] | None = None

    def train(self, vectors_ID: NDArray[np.float32]) -> Change:
        """What this client's users change of the vectors."""
        local_ID, config = vectors_ID.copy(), self._config
        for _ in range(config.local_epochs):
            order = self._random.permutation(self._matrix.shape[0])
            for first in range(0, len(order), config.users_per_step):
                _step(local_ID, self._matrix[order[first : first + config.users_per_step]], config, self._random)
        delta_ID = local_ID - vectors_ID
        if config.share >= 1:
            return Change(delta_ID, delta_ID.nbytes)
        if self._owed_ID is not None:
            delta_ID += self._owed_ID
        sent_ID, size = sparse(delta_ID, config.share)
        self._owed_ID = delta_ID - sent_ID
        return Change(sent_ID, size)


def sparse(delta_ID: NDArray[np.float32], share: float) -> tuple[NDArray[np.float32], int]:
    """The entries of largest size in 8 bits and 0 elsewhere, and the bytes that they take."""
    count = max(1, round(share * delta_ID.size))
    flat = np.abs(delta_ID).ravel()
    chosen = np.argpartition(-flat, count - 1)[:count]
    scale = max(float(flat[chosen].max()), 1e-12) / 127
    sent = np.zeros_like(delta_ID).ravel()
    sent[chosen] = np.rint(delta_ID.ravel()[chosen] / scale) * scale
    found: NDArray[np.float32] = sent.reshape(delta_ID.shape)
    return found, count * (_INDEX_BYTES + 1) + _SCALE_BYTES


def average(vectors_ID: NDArray[np.float32], changes: Sequence[Change]) -> NDArray[np.float32]:
    """The server's step: the mean change. Each client's users count alike only where clients have equally many."""
    mean_ID = np.mean([one.delta_ID for one in changes], axis=0, dtype=np.float32)
    return np.asarray(vectors_ID + mean_ID, np.float32)


def initial(num_items: int, config: AveragingConfig) -> NDArray[np.float32]:
    """Vectors before the first round, float32 ``[I, D]``."""
    random = np.random.default_rng(config.seed)
    scaled = random.standard_normal((num_items, config.dimensions)) / np.sqrt(config.dimensions)
    return np.asarray(scaled, np.float32)


def scoring_model(vectors_ID: NDArray[np.float32], popularity_I: NDArray[np.floating]) -> ScoringModel:
    """The model that serves the vectors."""
    bias_I = tie_break(np.asarray(popularity_I, np.float32), float(np.abs(vectors_ID).max(initial=0)))
    return ScoringModel(
        vectors_ID, vectors_ID, bias_I, np.asarray(popularity_I, np.float32), (vectors_ID.shape[1],), normalises=True
    )


def _step(
    vectors_ID: NDArray[np.float32], matrix_BI: sp.csr_matrix, config: AveragingConfig, random: np.random.Generator
) -> None:
    """One step of gradient descent: each user's target is an item of its history, drawn at random and left out."""
    lengths = np.diff(matrix_BI.indptr)
    places = matrix_BI.indptr[:-1] + (random.random(len(lengths)) * lengths).astype(np.int64)
    targets = matrix_BI.indices[places]
    rest = matrix_BI.copy()
    rest.data[places] = 0
    rest = sp.diags(1 / (lengths - 1).astype(np.float32)) @ rest
    users_BD = np.asarray(rest @ vectors_ID, np.float32)
    logits_BI = users_BD @ vectors_ID.T / np.float32(config.temperature)
    logits_BI -= logits_BI.max(axis=1, keepdims=True)
    shares_BI = np.exp(logits_BI)
    shares_BI /= shares_BI.sum(axis=1, keepdims=True)
    shares_BI[np.arange(len(targets)), targets] -= 1
    shares_BI /= np.float32(config.temperature * len(targets))
    gradient_ID = shares_BI.T @ users_BD + np.asarray(rest.T @ (shares_BI @ vectors_ID), np.float32)
    vectors_ID -= np.float32(config.learning_rate) * gradient_ID
