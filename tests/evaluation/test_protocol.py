from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError
from lanner.evaluation import evaluate, protocol


class Table:
    """Scores known beforehand. A user is told by the one item of the history, which is the user's row."""

    def __init__(self, scores):
        self.scores, self.sizes = scores, []

    def score(self, users):
        self.sizes.append(len(users))
        return self.scores[users.history.values]


def random_case(num_users=40, num_items=60, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(num_users * num_items).reshape(num_users, num_items).astype(np.float32)
    shuffled = [rng.permutation(num_items).astype(np.int32) for _ in range(num_users)]
    positives = [np.sort(row[: rng.integers(1, 12)]) for row in shuffled]
    excluded = [row[12 : 12 + rng.integers(0, 20)] for row in shuffled]
    histories = Ragged.from_lists([[user] for user in range(num_users)])
    held_out = HeldOut(
        np.arange(num_users) + 100,
        UserBatch(histories),
        Ragged.from_lists(positives),
        Ragged.from_lists(excluded),
        ratings=rng.integers(1, 6, sum(map(len, positives))).astype(np.float32),
    )
    return scores, held_out


def rankable(held_out, user, num_items):
    candidates = held_out.candidates
    if candidates is None:
        candidates = np.arange(num_items)
    elif isinstance(candidates, Ragged):
        candidates = candidates[user]
    return [item for item in candidates if item not in held_out.excluded[user]]


CANDIDATES = {
    "all": lambda held_out: None,
    "shared": lambda held_out: np.arange(0, 60, 2, dtype=np.int32),
    "own": lambda held_out: held_out.positives.join(
        Ragged.from_lists([[(7 * user + step) % 60 for step in range(9)] for user in range(len(held_out))])
    ),
}


@pytest.mark.parametrize("candidates", CANDIDATES)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_agrees_with_ranx(candidates, k):
    ranx = pytest.importorskip("ranx")
    scores, held_out = random_case()
    held_out = replace(held_out, candidates=CANDIDATES[candidates](held_out))
    # ranx sorts users by name.
    relevant = {f"u{user:02}": {f"i{item}": 1 for item in held_out.positives[user]} for user in range(40)}
    run = {
        f"u{user:02}": {f"i{item}": float(scores[user, item]) for item in rankable(held_out, user, 60)}
        for user in range(40)
    }
    names = {"recall": "recall", "precision": "precision", "ndcg": "ndcg", "hr": "hit_rate", "mrr": "mrr", "map": "map"}
    theirs = ranx.evaluate(
        ranx.Qrels(relevant), ranx.Run(run), [f"{name}@{k}" for name in names.values()], return_mean=False
    )
    report = evaluate(Table(scores), held_out, ks=(k,))
    for ours, name in names.items():
        np.testing.assert_allclose(report.per_user[f"{ours}_at_{k}"], theirs[f"{name}@{k}"], rtol=0, atol=1e-9)
        assert report[f"{ours}_at_{k}"] == pytest.approx(theirs[f"{name}@{k}"].mean(), abs=1e-9)


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_auc_agrees_with_scikit_learn_under_ties(candidates):
    scores, held_out = random_case()
    scores = np.floor(scores / 300)
    held_out = replace(held_out, candidates=CANDIDATES[candidates](held_out))
    if candidates == "shared":
        odd = [row[row % 2 == 0] for row in (held_out.positives[user] for user in range(40))]
        held_out = replace(held_out, positives=Ragged.from_lists([row if len(row) else [0] for row in odd]))
        held_out = replace(held_out, excluded=Ragged.empty(40))
    expected = []
    for user in range(40):
        ranked = np.unique(rankable(held_out, user, 60))
        expected.append(roc_auc_score(np.isin(ranked, held_out.positives[user]), scores[user, ranked]))
    found = evaluate(Table(scores), held_out, metrics=["auc"]).per_user["auc"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_auc_counts_unranked_positives_as_beaten_and_ignores_unranked_others():
    held_out = HeldOut(
        np.array([0]), UserBatch(Ragged.from_lists([[0]])), Ragged.from_lists([[0, 1]]), Ragged.from_lists([[3]])
    )
    scores = np.array([[5, np.nan, 1, 9, np.nan]], np.float32)
    assert evaluate(Table(scores), held_out, metrics=["auc"])["auc"] == 0.5


def test_rating_errors_are_taken_over_events():
    held_out = HeldOut(
        np.array([0, 1]),
        UserBatch(Ragged.from_lists([[0], [1]])),
        Ragged.from_lists([[0, 1, 2], [1]]),
        Ragged.empty(2),
        ratings=np.array([1, 2, 3, 5], np.float32),
    )
    report = evaluate(Table(np.array([[1, 2, 5], [0, 4, 0]], np.float32)), held_out, metrics=["rmse", "mae"])
    assert report["rmse"] == pytest.approx(np.sqrt((0 + 0 + 4 + 1) / 4))
    assert report["mae"] == pytest.approx((0 + 0 + 2 + 1) / 4)
    low, high = report.ci95["rmse"]
    assert low == pytest.approx(1)
    assert high == pytest.approx(np.sqrt(4 / 3))


def test_ties_go_to_the_lower_row_and_nan_is_never_ranked():
    held_out = HeldOut(
        np.arange(2), UserBatch(Ragged.from_lists([[0], [1]])), Ragged.from_lists([[2], [0]]), Ragged.empty(2)
    )
    scores = np.array([[1, 1, 1], [np.nan, 1, -np.inf]], np.float32)
    report = evaluate(Table(scores), held_out, ks=(2, 3), metrics=["hr", "coverage"])
    assert report.per_user["hr_at_2"].tolist() == [0, 0]
    assert report.per_user["hr_at_3"].tolist() == [1, 0]
    assert report["coverage_at_2"] == pytest.approx(2 / 3)


def test_excluded_items_are_never_ranked_and_scores_may_be_read_only():
    scores, held_out = random_case()
    scores.flags.writeable = False
    shared = np.broadcast_to(scores[0], (40, 60))

    class Constant:
        def score(self, users):
            return shared[: len(users)]

    report = evaluate(Constant(), held_out, ks=(60,))
    assert report["recall_at_60"] == 1
    assert report["hr_at_60"] == 1
    hidden = replace(held_out, excluded=held_out.excluded.join(held_out.positives))
    assert evaluate(Constant(), hidden, ks=(60,))["recall_at_60"] == 0
    assert (shared > -np.inf).all()


def test_blocks_bound_the_scores_and_change_nothing(monkeypatch):
    scores, held_out = random_case()
    whole = evaluate(Table(scores), held_out, metrics=["ndcg", "auc", "rmse"])
    monkeypatch.setattr(protocol, "SCORES_AT_ONCE", 7 * 60)
    table = Table(scores)
    blocked = evaluate(table, held_out, metrics=["ndcg", "auc", "rmse"])
    assert table.sizes == [1, 7, 7, 7, 7, 7, 4]
    for name, values in whole.per_user.items():
        np.testing.assert_array_equal(values, blocked.per_user[name])


def test_permuting_users_leaves_the_means():
    scores, held_out = random_case()
    order = np.random.default_rng(1).permutation(40)
    shuffled = replace(
        held_out,
        rows=held_out.rows[order],
        users=held_out.users.take(order),
        positives=held_out.positives.take(order),
        excluded=held_out.excluded.take(order),
    )
    first, second = (evaluate(Table(scores), one) for one in (held_out, shuffled))
    assert first.metrics == pytest.approx(second.metrics, abs=1e-12)


def test_a_split_gives_its_test_users_and_popularity():
    rng = np.random.default_rng(0)
    ids = IdMap([str(row) for row in range(20)])
    events = Interactions(*rng.integers(0, 20, (2, 300)).astype(np.int32))
    blank = Catalogue.blank(ids.external)
    split = random_ratio(Dataset(events, ids, ids, blank, blank), seed=1)
    popularity = np.bincount(split.train.interactions.item, minlength=20)

    class Popularity:
        def score(self, users):
            return np.tile(popularity.astype(np.float32), (len(users), 1))

    vectors = np.eye(20, dtype=np.float32)
    report = evaluate(Popularity(), split, ks=(3,), item_vectors=vectors, name="popularity")
    assert report.rows.tolist() == split.test.rows.tolist()
    assert report["diversity_at_3"] == pytest.approx(1)
    least, most = -np.log2(popularity[popularity > 0].max() / popularity.sum()), np.log2(popularity.sum())
    assert least < report["novelty_at_3"] < most
    as_json = report.to_dict()
    assert as_json["users"] == len(split.test)
    assert as_json["name"] == "popularity"
    assert set(as_json["ci95"]) == set(as_json["metrics"]) - {"coverage_at_3"}


def test_wrong_questions_are_one_clear_line():
    scores, held_out = random_case()
    unrated = replace(held_out, ratings=None)
    for arguments, words in [
        ({"metrics": ["ndgc"]}, "unknown metric 'ndgc'"),
        ({"metrics": ["rmse"]}, "'rmse' needs ratings"),
        ({"metrics": ["novelty"]}, "'novelty' needs popularity"),
        ({"metrics": ["diversity"]}, "'diversity' needs item_vectors"),
        ({"ks": (0,)}, "from 1 to 10,000"),
        ({"ks": (5, 999_999_999)}, "from 1 to 10,000"),
        ({"ks": ()}, "from 1 to 10,000"),
    ]:
        with pytest.raises(ConfigError, match=words):
            evaluate(Table(scores), unrated, **arguments)


def test_a_scorer_of_the_wrong_shape_is_named():
    _, held_out = random_case()

    class Flat:
        def score(self, users):
            return np.zeros(60, np.float32)

    with pytest.raises(ValueError, match=r"shape \(60,\) for 1 users"):
        evaluate(Flat(), held_out)
