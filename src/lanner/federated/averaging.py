"""Federated averaging of item vectors: clients send changes of the vectors, which their users' data determine.

The model is a minimal graph view: a user is the mean of its items' vectors, scores are inner products, and the loss is
the softmax over all items for each item given the rest of its history. In each round, clients train on their users and
send their update (McMahan et al., AISTATS 2017); the server applies the mean update as Adam's gradient (FedAdam; Reddi
et al., ICLR 2021) and sends the clients its step. Both may be in 8 bits; the compression error stays with the sender
and is added to what it sends next (error feedback, Karimireddy et al., ICML 2019). Updates are not masked: the server
sees each client's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from lanner.inference.scoring_model import ScoringModel, tie_break

_SCALE_BYTES = 4
_DECAYS, _EPSILON = (0.9, 0.99), 1e-5
"""Betas and epsilon of the server's Adam."""


@dataclass(frozen=True)
class AveragingConfig:
    """Settings of the rounds."""

    dimensions: int = 64
    rounds: int = 50
    users_per_step: int = 32
    """Batch size of a client, which makes one pass over its users per round."""
    client_rate: float = 5.0
    """Learning rate of a client's gradient descent."""
    server_rate: float = 0.02
    """Learning rate of the server's Adam."""
    temperature: float = 0.2
    compressed: bool = False
    """Whether clients and server send 8-bit values, with a scale for each item."""
    seed: int = 0


@dataclass(frozen=True)
class Change:
    """What the receiver has of an update. bytes: on the wire."""

    delta_ID: NDArray[np.float32]
    bytes: int


class Sender:
    """Sends updates in full or compressed; what compression lost is added to the next one."""

    def __init__(self, compressed: bool) -> None:
        self._compressed = compressed
        self._owed_ID: NDArray[np.float32] | np.float32 = np.float32(0)

    def change(self, delta_ID: NDArray[np.float32]) -> Change:
        """What is sent of ``delta_ID`` and of what earlier updates left."""
        if not self._compressed:
            return Change(delta_ID, delta_ID.nbytes)
        delta_ID = delta_ID + self._owed_ID
        sent_ID, size = in_8_bits(delta_ID)
        self._owed_ID = delta_ID - sent_ID
        return Change(sent_ID, size)


class Client:
    """A client with its users. matrix: 0/1, csr ``[users, I]``."""

    def __init__(self, matrix: sp.csr_matrix, config: AveragingConfig, seed: int) -> None:
        self._matrix = matrix[np.diff(matrix.indptr) > 1].astype(np.float32)
        self._config, self._random = config, np.random.default_rng(seed)
        self._sender = Sender(config.compressed)

    def train(self, vectors_ID: NDArray[np.float32]) -> Change:
        """Train on this client's users; returns the update of the vectors."""
        local_ID, config = vectors_ID.copy(), self._config
        order = self._random.permutation(self._matrix.shape[0])
        for first in range(0, len(order), config.users_per_step):
            _step(local_ID, self._matrix[order[first : first + config.users_per_step]], config, self._random)
        return self._sender.change(local_ID - vectors_ID)


def in_8_bits(delta_ID: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The multiples nearest to ``delta_ID`` of 1/127 of each row's largest magnitude, and their size in bytes."""
    scale_I1 = np.maximum(np.abs(delta_ID).max(axis=1, keepdims=True), 1e-12) / np.float32(127)
    return np.rint(delta_ID / scale_I1) * scale_I1, delta_ID.size + len(delta_ID) * _SCALE_BYTES


class Server:
    """Adam on the mean of the clients' updates. vectors_ID: the item vectors as clients have them, float32 ``[I, D]``.

    The first vectors follow from the seed, so they are not sent.
    """

    def __init__(self, num_items: int, config: AveragingConfig) -> None:
        random = np.random.default_rng(config.seed)
        scaled = random.standard_normal((num_items, config.dimensions)) / np.sqrt(config.dimensions)
        self.vectors_ID: NDArray[np.float32] = scaled.astype(np.float32)
        self._rate, self._rounds, self._sender = config.server_rate, 0, Sender(config.compressed)
        self._mean_ID, self._square_ID = np.zeros_like(self.vectors_ID), np.zeros_like(self.vectors_ID)

    def take(self, changes: Sequence[Change]) -> Change:
        """Apply the updates of a round; returns the change of the vectors, which is sent to each client.

        Clients have equal weight, however many users they have.
        """
        self._rounds += 1
        change_ID = np.mean([one.delta_ID for one in changes], axis=0, dtype=np.float32)
        self._mean_ID += (1 - _DECAYS[0]) * (change_ID - self._mean_ID)
        self._square_ID += (1 - _DECAYS[1]) * (change_ID**2 - self._square_ID)
        mean_ID, square_ID = (
            moment_ID / np.float32(1 - decay**self._rounds)
            for moment_ID, decay in zip((self._mean_ID, self._square_ID), _DECAYS, strict=True)
        )
        step_ID = np.float32(self._rate) * mean_ID / (np.sqrt(square_ID) + np.float32(_EPSILON))
        change = self._sender.change(step_ID)
        self.vectors_ID += change.delta_ID
        return change


def scoring_model(vectors_ID: NDArray[np.float32], popularity_I: NDArray[np.floating]) -> ScoringModel:
    """The model that serves the vectors."""
    bias_I = tie_break(np.asarray(popularity_I, np.float32), float(np.abs(vectors_ID).max(initial=0)))
    return ScoringModel(
        vectors_ID, vectors_ID, bias_I, np.asarray(popularity_I, np.float32), (vectors_ID.shape[1],), normalises=True
    )


def _step(
    vectors_ID: NDArray[np.float32], matrix_BI: sp.csr_matrix, config: AveragingConfig, random: np.random.Generator
) -> None:
    """One step of gradient descent: each user's target is a random item of its history, held out from the input."""
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
    vectors_ID -= np.float32(config.client_rate) * gradient_ID
