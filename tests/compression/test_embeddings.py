"""A whole model as embeddings: exact if the rank suffices, closer with training if not."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.compression.embeddings import distilled
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.inference.ranker import Query, Ranker
from lanner.inference.scoring_model import FoldIn, ScoringModel, SparseRows, popularity_model

ITEMS, WIDTH, USERS, VALUES = 60, 10, 240, 4
TEXTS = np.random.default_rng(3).normal(size=(80, 7)).astype(np.float32)


def model_of_rank(rank: int) -> ScoringModel:
    """A model whose dense and sparse parts, friends, values and texts all lie within ``rank`` directions."""
    random = np.random.default_rng(1)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    target = draw(ITEMS, rank)
    rows = draw(ITEMS, rank) @ target.T
    rows[random.random(ITEMS) < 0.5] = 0
    return ScoringModel(
        draw(ITEMS, WIDTH),
        target @ draw(rank, WIDTH),
        draw(ITEMS),
        np.ones(ITEMS, np.float32),
        (WIDTH,),
        item_to_item=SparseRows.of(sp.csr_matrix(rows)),
        friends_UD=draw(USERS, WIDTH),
        text_FD=draw(TEXTS.shape[1], WIDTH),
        profile_FD=draw(TEXTS.shape[1], WIDTH),
        recency=0.1,
        attribute_AD=draw(VALUES, WIDTH),
        kind_A=np.array([0, 0, 1, 1], np.int32),
    )


def some_users() -> UserBatch:
    random = np.random.default_rng(5)
    lists = [random.choice(ITEMS, random.integers(1, 9), replace=False).tolist() for _ in range(USERS)]
    values = [[row % 2, 2 + row // 2 % 2] for row in range(USERS)]
    friends = [[(row + 1) % USERS] for row in range(USERS)]
    return UserBatch(Ragged.from_lists(lists), friends=Ragged.from_lists(friends), attributes=Ragged.from_lists(values))


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=1, keepdims=True)


def test_what_fits_is_the_same_model_whatever_a_request_brings():
    teacher, users = model_of_rank(6), some_users()
    student, rounds = distilled(teacher, users, 8, texts_TF=TEXTS, rounds=0)
    assert rounds == 0
    assert (student.dimensions, student.item_to_item, student.recency) == (8, None, teacher.recency)
    features = TEXTS[:USERS].repeat(3, axis=0)
    for asked in ((users,), (users, features[:USERS]), (users, None, features[:USERS])):
        wanted = centred(teacher.score(*asked))
        assert np.allclose(centred(student.score(*asked)), wanted, atol=2e-3 * np.abs(wanted).max())


def test_a_new_item_has_a_place_among_the_others():
    teacher, users = model_of_rank(6), some_users()
    student, _ = distilled(teacher, users, 6, rounds=0)
    reduction = student.reduction
    target_ID = (teacher.target_ID - reduction.mean_D) @ reduction.target_DR
    assert np.allclose(target_ID, student.target_ID, atol=1e-3 * np.abs(student.target_ID).max())


def divergence(teacher: ScoringModel, student: ScoringModel, users: UserBatch) -> float:
    wanted, found = (one.score(users).astype(np.float64) / teacher.score(users).std() for one in (teacher, student))
    log = lambda scores: scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return float((np.exp(log(wanted)) * (log(wanted) - log(found))).sum(axis=1).mean())


def test_training_brings_the_lists_nearer_than_squared_error_does():
    teacher, users = model_of_rank(30), replace(some_users(), friends=None)
    begun, trained = (distilled(teacher, users, 6, rounds=rounds)[0] for rounds in (0, 4))
    assert divergence(teacher, trained, users) < 0.9 * divergence(teacher, begun, users)


def test_validation_chooses_the_round():
    teacher, users = model_of_rank(6), some_users()
    rows = np.arange(USERS)
    best = Ragged.from_lists([[int(np.argmax(one))] for one in teacher.score(users)])
    held_out = HeldOut(rows, users, best, Ragged.empty(USERS))
    student, rounds = distilled(teacher, users, 8, validation=held_out)
    assert rounds == 0, "what is exact from the start is not trained"
    assert np.array_equal(student.score(users).argmax(axis=1), teacher.score(users).argmax(axis=1))


def test_reasons_sum_to_the_score():
    student, _ = distilled(model_of_rank(30), some_users(), 6, rounds=1)
    history = np.array([1, 2, 30])
    ranker = Ranker(student)
    found = ranker.rank([Query(history, seen=history, k=3)])[0]
    for item, score in zip(found.items, found.scores, strict=True):
        assert ranker.explain(Query(history), np.array([item]))[0].score == pytest.approx(float(score), abs=1e-4)


def test_what_cannot_be_distilled_is_said():
    teacher, users = model_of_rank(6), some_users()
    solved = replace(teacher, fold_in=FoldIn(np.eye(WIDTH, dtype=np.float32), 1.0))
    for model in (solved, popularity_model(np.ones(ITEMS))):
        with pytest.raises(ConfigError, match="linear in the history"):
            distilled(model, users, 8)
    with pytest.raises(ConfigError, match="at least 1, received 0"):
        distilled(teacher, users, 0)
    with pytest.raises(ValueError, match="already reduced"):
        distilled(distilled(teacher, users, 8, rounds=0)[0], users, 4)
