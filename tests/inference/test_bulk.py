"""Bulk ranking against the ranker, one user at a time."""

from dataclasses import replace

import numpy as np
import pytest
from test_ranker import MODELS, NUM_ITEMS, draw

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference import bulk
from lanner.inference.bulk import BulkRanker
from lanner.inference.eligibility import RowMask
from lanner.inference.heads import Head
from lanner.inference.ranker import Ranker, padded, queries_of
from lanner.inference.scoring_model import popularity_model

K, USERS = 12, 37
random = np.random.default_rng(0)
HISTORIES = Ragged.from_lists([random.integers(0, NUM_ITEMS, length % 9).tolist() for length in range(USERS)])
BATCH = UserBatch(HISTORIES, weights=random.uniform(0.5, 2, len(HISTORIES.values)).astype(np.float32))
SOME = random.permutation(NUM_ITEMS)[:80].astype(np.int32)
CANDIDATES = {"all": None, "some": SOME}
ALL = MODELS | {
    "popularity": popularity_model(MODELS["dense"].popularity_I),
    "friends": replace(MODELS["dense"], friends_UD=draw(6, 8), bias_I=np.zeros(NUM_ITEMS, np.float32)),
}


def one_by_one(model, batch, excluded, candidates):
    queries = queries_of(batch, K, exclude_seen=False)
    for row, query in enumerate(queries):
        allow = None if candidates is None else RowMask.of(candidates, NUM_ITEMS)
        queries[row] = replace(query, seen=excluded[row].astype(np.int64), allow=allow)
    return Ranker(model).rank(queries)


def assert_alike(found, rankings):
    items, scores = padded(rankings, K)
    assert found.fallback.tolist() == [one.fallback for one in rankings]
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)
    swapped = found.items != items  # only items whose scores are equal but for rounding
    assert ((found.items >= 0) == (items >= 0)).all()
    assert swapped.mean() < 0.02


@pytest.fixture(params=["one pass", "tiles and threads"])
def way(request, monkeypatch):
    if request.param == "tiles and threads":
        for name, value in {"_USERS": 5, "_ITEMS": 64, "_SCORES": 4 * NUM_ITEMS, "_SCORES_WORTH_A_THREAD": 1}.items():
            monkeypatch.setattr(bulk, name, value)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("name", ALL)
def test_many_users_are_answered_as_each_alone(name, candidates):
    batch = replace(
        BATCH,
        friends=Ragged.from_lists([[user % 6] * (user % 3) for user in range(USERS)]),
        attributes=Ragged.from_lists([[user % 5, 2][: user % 3] for user in range(USERS)]),
    )
    found = BulkRanker(ALL[name]).rank(batch, K, HISTORIES, CANDIDATES[candidates])
    assert_alike(found, one_by_one(ALL[name], batch, HISTORIES, CANDIDATES[candidates]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["concat", "gated"])
def test_the_head_of_a_large_catalogue_ranks_the_best_candidates(kind, monkeypatch):
    monkeypatch.setattr(bulk, "RERANK_ALL", 10)
    monkeypatch.setattr("lanner.inference.ranker.RERANK_ALL", 10)
    monkeypatch.setattr(bulk, "CANDIDATES", 40)
    width = 6 if kind == "concat" else 2
    head = Head(draw(8, width), draw(width), draw(NUM_ITEMS, width), draw(6), None, kind, 2)
    model = replace(MODELS["dense"], head=head)
    found = BulkRanker(model).rank(BATCH, K, HISTORIES)
    expected = Ranker(model, candidates=40).rank(queries_of(BATCH, K))
    assert_alike(found, expected)


def test_nobody_no_items_and_an_impossible_k():
    ranker = BulkRanker(MODELS["dense"])
    assert ranker.rank(UserBatch(Ragged.empty(0)), K).items.shape == (0, K)
    nothing = ranker.rank(BATCH, K, candidates=np.empty(0, np.int32))
    assert (nothing.items == -1).all()
    assert (ranker.rank(BATCH, NUM_ITEMS + 5).items[:, NUM_ITEMS:] == -1).all()
    with pytest.raises(ValueError, match="k must be at least 1"):
        ranker.rank(BATCH, 0)


def test_blas_has_its_threads_back_afterwards(monkeypatch):
    monkeypatch.setattr(bulk, "_SCORES_WORTH_A_THREAD", 1)
    threads = lambda: [one["num_threads"] for one in bulk._blas().info() if one["user_api"] == "blas"]
    before = threads()
    BulkRanker(MODELS["dense"]).rank(BATCH, K)
    assert threads() == before
