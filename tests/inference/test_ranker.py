"""The ranker against a simple reference, with an index, with later items, and with everything excluded."""

import sys
from dataclasses import replace
from threading import Event, Thread

import numpy as np
import pytest

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.eligibility import RowMask
from lanner.inference.heads import Head
from lanner.inference.ranker import Query, Ranker, queries_of
from lanner.inference.scoring_model import FoldIn, ItemRows, ScoringModel, SparseRows, popularity_model

NUM_ITEMS, DIMENSIONS = 300, 8


class ScannedIndex:
    """An index that misses nothing."""

    def __init__(self, vectors_ID1):
        self.vectors_ID1, self.memory_bytes, self.num_items = vectors_ID1, vectors_ID1.nbytes, len(vectors_ID1)

    def search(self, queries_BD1, k, mask=None, excluded=None):
        scores = queries_BD1 @ self.vectors_ID1.T
        if mask is not None:
            scores[:, ~mask] = -np.inf
        for line, rows in enumerate(excluded or ()):
            scores[line, rows[rows < self.num_items]] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(scores, rows, axis=1)
        return np.where(np.isfinite(values), rows, -1), values


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def dense(**changes) -> ScoringModel:
    popularity = np.random.default_rng(1).integers(0, 50, NUM_ITEMS).astype(np.float32)
    plain = ScoringModel(
        draw(NUM_ITEMS, DIMENSIONS), draw(NUM_ITEMS, DIMENSIONS) + 1, draw(NUM_ITEMS), popularity, (3, 5), ("a", "b")
    )
    return replace(plain, **changes)


def sparse_rows() -> SparseRows:
    import scipy.sparse as sp

    return SparseRows.of(sp.random(NUM_ITEMS, NUM_ITEMS, 0.05, format="csr", random_state=0, dtype=np.float32))


KINDS = np.array([0, 0, 0, 1, 1], np.int32)
ATTRIBUTES = [[0, 2, 4], [], [3]]


def sparse_rows_of_attributes() -> SparseRows:
    """Rows of items, of the values of attributes, and of pairs."""
    import scipy.sparse as sp

    rows = NUM_ITEMS + len(KINDS) + len(KINDS) * NUM_ITEMS
    return SparseRows.of(sp.random(rows, NUM_ITEMS, 0.02, format="csr", random_state=1, dtype=np.float32), sums=True)


MODELS = {
    "dense": dense(),
    "head": dense(head=Head(draw(DIMENSIONS, 6), draw(6), draw(NUM_ITEMS, 6), draw(6))),
    "gated": dense(head=Head(draw(DIMENSIONS, 2), draw(2), draw(NUM_ITEMS, 2), draw(0), None, "gated", 2)),
    "sparse and dense": dense(item_to_item=sparse_rows(), normalises=False),
    "sparse": dense(
        source_ID=draw(NUM_ITEMS, 0), target_ID=draw(NUM_ITEMS, 0), view_sizes=(0,), item_to_item=sparse_rows()
    ),
    "attributes": dense(
        kind_A=KINDS, attribute_AD=draw(len(KINDS), DIMENSIONS), item_to_item=sparse_rows_of_attributes()
    ),
    "attributes alone": dense(
        source_ID=draw(NUM_ITEMS, 0),
        target_ID=draw(NUM_ITEMS, 0),
        view_sizes=(0,),
        kind_A=KINDS,
        item_to_item=sparse_rows_of_attributes(),
    ),
    "recent": dense(item_to_item=sparse_rows(), recency=0.3),
    "fold-in": dense(fold_in=FoldIn(np.eye(DIMENSIONS, dtype=np.float32) * 4, 10.0), normalises=False),
}


def index_of(model: ScoringModel) -> ScannedIndex:
    return ScannedIndex(np.hstack([model.target_ID, model.bias_I[:, None]]))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_it_lists_what_its_twin_scores_highest(name, indexed):
    model = MODELS[name]
    ranker = Ranker(model, index=index_of(model) if indexed else None, candidates=NUM_ITEMS)
    histories = [[5, 9, 9, 100], [7], [250, 3, 4]]
    users = UserBatch(Ragged.from_lists(histories), attributes=Ragged.from_lists(ATTRIBUTES))
    queries = [replace(query, k=12) for query in queries_of(users)]
    scores = model.score(users)
    for query, ranking, wanted in zip(queries, ranker.rank(queries), scores, strict=True):
        wanted[query.seen] = -np.inf
        np.testing.assert_allclose(ranking.scores, -np.sort(-wanted)[:12], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(wanted[ranking.items], ranking.scores, rtol=1e-4, atol=1e-4)
        assert not ranking.fallback


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_explanation_adds_up_to_the_score(name, indexed):
    model = MODELS[name]
    ranker = Ranker(model, index=index_of(model) if indexed else None, candidates=NUM_ITEMS)
    rows = np.arange(0, 60, 3)
    weights = np.linspace(0.5, 2, 20, dtype=np.float32)
    ranking = ranker.rank([Query(rows, weights=weights, explain=True, attributes=np.array([0, 2, 3]))])[0]
    for item, score, explained in zip(ranking.items, ranking.scores, ranking.explanations, strict=True):
        assert explained.item == item
        assert explained.score == pytest.approx(float(score), rel=1e-3, abs=1e-3)
        assert sum(part.value for part in explained.parts) == pytest.approx(explained.score)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "popularity"])
def test_nothing_that_is_barred_comes_back(name, indexed):
    model = MODELS.get(name) or popularity_model(np.arange(NUM_ITEMS))
    ranker = Ranker(model, index=index_of(model) if indexed else None)
    random = np.random.default_rng(0)
    hidden = random.choice(NUM_ITEMS, 100, replace=False)
    ranker.available.hide(hidden)
    allowed = random.choice(NUM_ITEMS, 150, replace=False)
    seen, deny = random.choice(NUM_ITEMS, 30, replace=False), random.choice(NUM_ITEMS, 20, replace=False)
    left = set(allowed.tolist()) - set(hidden.tolist()) - set(seen.tolist()) - set(deny.tolist())
    for history in (seen, np.empty(0, np.int64)):
        query = Query(history, seen=seen, k=NUM_ITEMS, allow=RowMask.of(allowed, NUM_ITEMS), deny=deny, diversity=0.3)
        assert set(ranker.rank([replace(query, diversity=0.0)])[0].items.tolist()) == left
        assert set(ranker.rank([query])[0].items.tolist()) <= left
        free = ranker.rank([Query(history, seen=seen, k=NUM_ITEMS)])[0].items.tolist()
        assert set(free) == set(range(NUM_ITEMS)) - set(hidden.tolist()) - set(seen.tolist())
    assert not set(ranker.similar(3, 50, deny=deny).items.tolist()) & {3, *hidden.tolist(), *deny.tolist()}


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_item_that_came_later_is_ranked_as_one_that_was_there(name, indexed):
    model = MODELS[name]
    ranker = Ranker(model, index=index_of(model) if indexed else None, candidates=NUM_ITEMS)
    half = None if model.head is None else model.head.item_IH[:2]
    copy = ItemRows(model.source_ID[:2], model.target_ID[:2], model.bias_I[:2] + 100, half)
    ranker.available.grow(NUM_ITEMS + 2)
    added = ranker.add(copy)
    assert added.tolist() == [NUM_ITEMS, NUM_ITEMS + 1]
    assert not set(ranker.rank([Query(np.array([9]), k=5)])[0].items.tolist()) & set(added.tolist())
    ranker.available.show(added)
    assert set(ranker.rank([Query(np.array([9]), k=2)])[0].items.tolist()) == set(added.tolist())
    assert ranker.rank([Query(np.array([9, NUM_ITEMS]), seen=added, k=5, explain=True)])[0].explanations


def test_a_later_item_borrows_the_weights_of_trained_ones():
    model = MODELS["sparse"]
    ranker, first, second = Ranker(model), 17, 80
    ranker.available.grow(NUM_ITEMS + 2)
    nothing = np.zeros((2, 0), np.float32)
    rows = ItemRows(
        nothing,
        nothing,
        model.bias_I[[first, first]],
        None,
        np.array([[first, second], [first, 0]], np.int32),
        np.array([[0.5, 0.25], [1, 0]], np.float32),
    )
    mixed, same = ranker.add(rows).tolist()
    ranker.available.show(np.array([mixed, same]))
    weights = model.item_matrix.toarray()
    history = np.arange(0, 200, 2)
    expected = weights[history].mean(axis=0)
    found = ranker.rank([Query(history, k=ranker.num_items, explain=True)])[0]
    scores = dict(zip(found.items.tolist(), found.scores.tolist(), strict=True))
    explained = {one.item: one.score for one in found.explanations}
    bias = model.bias_I[first]
    assert scores[same] == pytest.approx(scores[first], abs=1e-6)
    assert scores[mixed] == pytest.approx(0.5 * expected[first] + 0.25 * expected[second] + bias, abs=1e-6)
    assert explained[mixed] == pytest.approx(scores[mixed], abs=1e-5)
    # In a history, too, it stands for those whom it borrows from.
    alone = ranker.rank([Query(np.array([mixed]), k=NUM_ITEMS)])[0]
    wanted = 0.5 * weights[first] + 0.25 * weights[second] + model.bias_I
    np.testing.assert_allclose(alone.scores[:20], np.sort(wanted)[::-1][:20], rtol=1e-4, atol=1e-5)


def test_a_changed_item_keeps_its_popularity():
    model = dense(popularity_I=np.arange(1, NUM_ITEMS + 1, dtype=np.float32))
    ranker, best = Ranker(model), NUM_ITEMS - 1
    row = slice(best, best + 1)
    ranker.available.grow(NUM_ITEMS + 2)
    changed = ranker.add(ItemRows(model.source_ID[row], model.target_ID[row], model.bias_I[row]), [best])
    added = ranker.add(ItemRows(model.source_ID[row], model.target_ID[row], model.bias_I[row]))
    ranker.available.hide(np.array([best]))
    ranker.available.show(np.concatenate([changed, added]))
    found = ranker.rank([Query(k=NUM_ITEMS + 2)])[0]
    assert found.items[0] == changed[0]
    assert found.items[-1] == added[0]
    assert (np.diff(found.scores) <= 0).all()


def test_popular_lists_are_whole_while_items_come():
    ranker, failures, stop = Ranker(MODELS["dense"]), [], Event()
    ranker.available.grow(NUM_ITEMS + 400)

    def rank() -> None:
        try:
            while not stop.is_set():
                ranker.rank([Query(k=NUM_ITEMS + 400)])
        except Exception as error:
            failures.append(error)

    model, before = MODELS["dense"], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        readers = [Thread(target=rank) for _ in range(3)]
        for reader in readers:
            reader.start()
        for row in range(300):
            one = slice(row, row + 1)
            ranker.available.show(
                ranker.add(ItemRows(model.source_ID[one], model.target_ID[one], model.bias_I[one]), [row])
            )
        stop.set()
        for reader in readers:
            reader.join()
    finally:
        sys.setswitchinterval(before)
    assert failures == []


def test_without_a_signal_the_most_popular_come_first_and_it_says_so():
    model = MODELS["dense"]
    ranking = Ranker(model).rank([Query(k=5, seen=np.array([int(model.popularity_I.argmax())]), explain=True)])[0]
    assert ranking.fallback
    assert model.popularity_I.argmax() not in ranking.items
    assert (np.diff(ranking.scores) <= 0).all()
    assert [part.kind for part in ranking.explanations[0].parts] == ["popularity"]


def test_a_list_for_everyone_is_no_fallback():
    assert not Ranker(popularity_model(np.arange(9))).rank([Query(np.array([1]))])[0].fallback


@pytest.mark.parametrize("name", ["dense", "sparse", "fold-in"])
def test_a_history_of_items_without_interactions_is_no_signal(name):
    model = MODELS[name]
    source_ID = model.source_ID.copy()
    source_ID[7] = 0
    sparse = None
    if model.item_to_item is not None:
        matrix = model.item_to_item.matrix().tolil()
        matrix[7] = 0
        sparse = SparseRows.of(matrix.tocsr())
    unseen = replace(model, source_ID=source_ID, item_to_item=sparse)
    ranking = Ranker(unseen).rank([Query(np.array([7]), k=5)])[0]
    assert ranking.fallback
    scores = unseen.score(UserBatch(Ragged.from_lists([[7]])))[0]
    np.testing.assert_array_equal(ranking.scores, -np.sort(-scores)[:5])
    assert Ranker(unseen).similar(7, 3).fallback


def test_negative_weights_are_no_signal():
    weights = np.zeros(1, np.float32)
    assert Ranker(MODELS["dense"]).rank([Query(np.array([4]), weights)])[0].fallback


@pytest.mark.parametrize("row", [-1, NUM_ITEMS])
def test_a_row_that_no_item_has_is_refused(row):
    with pytest.raises(ValueError, match="do not fit"):
        Ranker(MODELS["dense"]).rank([Query(np.array([row]))])


def test_a_k_below_1_is_refused():
    with pytest.raises(ValueError, match="k must be at least 1"):
        Ranker(MODELS["dense"]).rank([Query(np.array([1]), k=0)])


def test_a_diverse_list_is_less_alike():
    model = MODELS["dense"]
    unit = model.target_ID / np.linalg.norm(model.target_ID, axis=1, keepdims=True)
    likeness = lambda items: (unit[items] @ unit[items].T).mean()
    plain, diverse = (Ranker(model).rank([Query(np.array([5, 9]), diversity=how, k=8)])[0].items for how in (0.0, 0.8))
    assert likeness(diverse) < likeness(plain)
