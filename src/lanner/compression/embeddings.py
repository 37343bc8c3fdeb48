"""The whole model as embeddings: one vector per item as history, one as target, and nothing else.

A query (items of a history, attribute values, features of a text) is a row of a sparse matrix X, and a
model's scores are X W + bias. The student X P Qᵀ + b begins at the reduced-rank regression of X W (Q: its leading
right singular vectors, P = W Q; Izenman 1975), without materialising W, items × items. Then P, Q and b minimise
KL(softmax(teacher) ‖ softmax(student)) over the items not in the history (Hinton, Vinyals & Dean 2015; the
temperature is the standard deviation of the teacher's scores).
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.inference.ranker import RankedScorer
from lanner.inference.scoring_model import Reduction, ScoringModel
from lanner.inference.sparse import aged, attribute_matrix, batch_matrix, shares_of, sum_of_sparse_rows, with_attributes
from lanner.inference.tables import Table, take
from lanner.training.tasks import quality_of, some

Array = NDArray[np.float32]
_MAX_USERS, _MAX_EVALUATED = 20_000, 2_000
_SPARE, _ITERATIONS = 16, 4
"""Of the subspace iteration."""
ROUNDS, _STEPS_A_ROUND = 16, 50
_SCORES_A_STEP, _LARGEST_BATCH, _TEXT_SHARE = 1 << 20, 256, 0.1
_RATE = 0.1
"""Learning rate of Adam, in standard deviations of each table; it falls to 0 over all rounds."""


def distilled(
    teacher: ScoringModel,
    users: UserBatch,
    dimensions: int = 64,
    *,
    texts_TF: Array | None = None,
    validation: HeldOut | None = None,
    read: Callable[[Sequence[str]], Array] | None = None,
    rounds: int = ROUNDS,
) -> tuple[ScoringModel, int]:
    """A model of ``dimensions`` distilled to rank like ``teacher``, and its number of training rounds.

    users: source of histories and attributes to learn from. texts_TF: features of likely search texts.
    validation: events unseen by the teacher; its ndcg@10 selects among ``rounds`` of 50 steps; None: the last.
    read: profile texts to features. Friends, profiles and new items are fitted by least squares.

    Raises:
        ConfigError, ValueError: see ``check_distillable``.
    """
    check_distillable(teacher, dimensions)
    random = np.random.default_rng(0)
    known = random.permutation(np.flatnonzero(users.history.lengths))[:_MAX_USERS]
    distillation = _DistillationSet(teacher, users.take(known), texts_TF)
    tables = [
        torch.from_numpy(one).requires_grad_() for one in distillation.start(min(dimensions, teacher.num_items - 1))
    ]
    rates = [_RATE * max(float(one.detach().std()), 1e-9) for one in tables[:2]] + [_RATE * distillation.scale]
    groups = [{"params": [one], "lr": rate} for one, rate in zip(tables, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, ROUNDS * _STEPS_A_ROUND)
    held_out = None if validation is None or not len(validation) else some(validation, _MAX_EVALUATED)
    best, best_quality, trained = [one.detach().clone() for one in tables], -1.0, 0
    for number in range(rounds + 1):
        quality = np.inf if held_out is None else quality_of(RankedScorer(distillation.student(tables), read), held_out)
        if held_out is None or quality > best_quality:
            best, best_quality, trained = [one.detach().clone() for one in tables], quality, number
        if number == rounds:
            break
        for _ in range(_STEPS_A_ROUND):
            optimizer.zero_grad()
            distillation.loss(tables, random).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return distillation.student(best, for_new_items=True), trained


def check_distillable(teacher: ScoringModel, dimensions: int) -> None:
    """Check that the model can be distilled.

    Raises:
        ConfigError: dimensions below 1, or a model that is not linear in the history. ValueError: a reduced model.
    """
    if dimensions < 1:
        raise ConfigError(f"dimensions must be at least 1, received {dimensions}")
    if teacher.fold_in is not None or teacher.head is not None or not teacher.is_personal:
        raise ConfigError("only a model that is linear in the history can be distilled into embeddings")
    if teacher.reduction.source_DR is not None:
        raise ValueError("this model is already reduced; distil the full one")


class _DistillationSet:
    """N queries, users first, then texts, and the teacher's scores.

    X ``[N, K]``: one column per item, attribute value and text feature.
    """

    def __init__(self, teacher: ScoringModel, users: UserBatch, texts_TF: Array | None) -> None:
        self._teacher, self._num_users, items = teacher, len(users), teacher.num_items
        users = UserBatch(users.history, weights=users.weights, attributes=users.attributes)
        kind_A = np.empty(0, np.int32) if teacher.kind_A is None else teacher.kind_A
        width, no_texts = teacher.dimensions, texts_TF is None or teacher.text_FD is None
        text_FD = np.empty((0, width), np.float32) if teacher.text_FD is None or no_texts else take(teacher.text_FD)
        texts_TF = np.empty((0, len(text_FD)), np.float32) if texts_TF is None or no_texts else texts_TF
        value_AD = np.zeros((len(kind_A), width)) if teacher.attribute_AD is None else take(teacher.attribute_AD)
        self._ends = np.cumsum([items, len(kind_A), len(text_FD)])
        # W = rows · targetsᵀ + sparse
        self._rows_KD = np.vstack([take(teacher.source_ID), value_AD, text_FD]).astype(np.float32)
        self._target_ID = _centred(take(teacher.target_ID))
        self._sums = not (teacher.normalises if teacher.item_to_item is None else teacher.divides_weights)
        known = (batch_matrix if self._sums else shares_of)(aged(users, teacher.recency), items)
        if len(kind_A):
            values = Ragged.empty(len(users)) if users.attributes is None else users.attributes
            known = with_attributes(known, attribute_matrix(values, kind_A), items + len(kind_A))
        self._inputs = sp.block_diag([known, texts_TF], "csr").astype(np.float32)
        self._seen, self._vectors_ND = batch_matrix(users, items), np.vstack([teacher.users(users), texts_TF @ text_FD])
        # Empty without item-to-item weights.
        sparse = sp.csr_matrix((self._ends[1], items), dtype=np.float32)
        self._sparse = sparse if teacher.item_to_item is None else teacher.item_matrix
        shares = sp.csr_matrix((len(users), self._ends[1])) if teacher.item_to_item is None else teacher.shares(users)
        self._shares = sp.vstack([shares, sp.csr_matrix((len(texts_TF), shares.shape[1]))], "csr").astype(np.float32)
        some_rows = self.answers(np.arange(self._num_users)[:_LARGEST_BATCH])
        self.scale = max(float(some_rows.std(axis=1).mean()), 1e-9)

    def answers(self, rows: NDArray[np.integer]) -> Array:
        """The teacher's scores, float32 ``[B, I]``."""
        dense_BI = self._vectors_ND[rows] @ self._target_ID.T + self._teacher.bias_I
        return np.asarray(dense_BI + sum_of_sparse_rows(self._shares[rows], self._sparse), np.float32)

    def start(self, rank: int) -> tuple[Array, Array, Array]:
        """P, Q and b of the reduced-rank regression, by subspace iteration (Halko, Martinsson & Tropp 2011)."""
        vectors_ND, items = self._vectors_ND.copy(), self._teacher.num_items
        # Texts get the same share of the variance as of the steps, whatever their number and spread of scores.
        texts_ND = vectors_ND[self._num_users :]
        spread = float((texts_ND[:_LARGEST_BATCH] @ self._target_ID.T).std()) if len(texts_ND) else 1.0
        texts_ND *= self.scale / max(spread, 1e-9) * np.sqrt(_TEXT_SHARE * self._num_users / max(len(texts_ND), 1))

        def project(items_IR: Array) -> Array:
            found = vectors_ND @ (self._target_ID.T @ items_IR) + self._shares @ (self._sparse @ items_IR)
            return np.asarray(found, np.float32)

        def project_back(scored_NR: Array) -> Array:
            found = self._target_ID @ (vectors_ND.T @ scored_NR) + self._sparse.T @ (self._shares.T @ scored_NR)
            return np.asarray(found, np.float32)

        basis_IR = np.random.default_rng(0).standard_normal((items, min(rank + _SPARE, items)), np.float32)
        for _ in range(_ITERATIONS):
            basis_IR = _centred(np.linalg.qr(project_back(project(_centred(basis_IR))))[0])
        scored_NR = project(basis_IR)
        target_IR = basis_IR @ np.linalg.eigh(scored_NR.T @ scored_NR)[1][:, ::-1][:, :rank]
        source_KR = self._rows_KD @ (self._target_ID.T @ target_IR)
        known_KR = self._sparse[: self._ends[1]] @ target_IR
        source_KR[: len(known_KR)] += known_KR
        gain = np.sqrt(max(float(source_KR.std()), 1e-9) / max(float(target_IR.std()), 1e-9))
        return (
            np.array(source_KR / gain, np.float32),
            np.array(target_IR * gain, np.float32),
            self._teacher.bias_I.copy(),
        )

    def loss(self, tables: Sequence[Tensor], random: np.random.Generator) -> Tensor:
        """Mean divergence of a random batch, up to the teacher's entropy."""
        source, target, bias = tables
        size = min(_LARGEST_BATCH, max(8, _SCORES_A_STEP // len(target)))
        users, texts = self._num_users, len(self._vectors_ND) - self._num_users
        number = min(round(size * _TEXT_SHARE), texts)
        users_B, texts_B = random.permutation(users)[: size - number], random.permutation(texts)[:number]
        rows, seen = np.concatenate([users_B, users + texts_B]), self._seen[users_B].nonzero()
        answers = torch.from_numpy(self.answers(rows)) / self.scale
        answers[seen] = -torch.inf
        inputs = self._inputs[rows]
        places, starts = (torch.from_numpy(one.astype(np.int64)) for one in (inputs.indices, inputs.indptr))
        weights = torch.from_numpy(inputs.data)
        vectors = embedding_bag(
            places, source, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        found = torch.log_softmax(
            ((vectors @ target.T + bias) / self.scale).masked_fill(answers.isinf(), -torch.inf), 1
        )
        wanted = torch.softmax(answers, 1)
        return -(wanted * found.masked_fill(wanted == 0, 0)).sum(1).mean()

    def student(self, tables: Sequence[Tensor], *, for_new_items: bool = False) -> ScoringModel:
        """The scoring model of P, Q and b; untrained parts are fitted by least squares."""
        teacher, (source_KR, target_IR, bias_I) = self._teacher, (one.detach().numpy().copy() for one in tables)
        items_IR, values_AR, texts_FR = np.split(source_KR, self._ends[:-1])
        centred_IR, reduction = _centred(target_IR), Reduction()
        user_DR = _solved(centred_IR, self._target_ID).T  # T ≈ Q Aᵀ
        if for_new_items:
            source_DR = _solved(self._rows_KD[: len(items_IR)], items_IR)
            target_DR = _solved(self._target_ID, centred_IR)
            reduction = Reduction(source_DR, target_DR, take(teacher.target_ID).mean(axis=0))

        def shortened(table: Table | None) -> Array | None:
            return None if table is None else np.asarray(take(table) @ user_DR, np.float32)

        return ScoringModel(
            items_IR,
            centred_IR,
            bias_I,
            teacher.popularity_I,
            (target_IR.shape[1],),
            normalises=not self._sums,
            friends_UD=shortened(teacher.friends_UD),
            profile_FD=shortened(teacher.profile_FD),
            text_FD=texts_FR if len(texts_FR) else shortened(teacher.text_FD),
            reduction=reduction,
            recency=teacher.recency,
            attribute_AD=values_AR if teacher.kind_A is not None else None,
            kind_A=teacher.kind_A,
        )


def _centred(items_IR: Array) -> Array:
    """Subtract the mean item, which changes no ranking."""
    return np.asarray(items_IR - items_IR.mean(axis=0), np.float32)


def _solved(known: Array, wanted: Array) -> Array:
    """The X that minimises ‖known X − wanted‖."""
    return np.asarray(np.linalg.lstsq(known, wanted, rcond=None)[0], np.float32)
