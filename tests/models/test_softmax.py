"""The hide-one softmax: its gradient, its optimum, and users without attributes."""

import numpy as np
import pytest
import scipy.sparse as sp

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ragged import Ragged
from lanner.inference.sparse import attribute_matrix, with_attributes
from lanner.models.hybrid import softmax
from lanner.models.hybrid.softmax import Penalties, hide_one_softmax

USERS, ITEMS, VALUES = 400, 6, 5
LIGHT = Penalties(ridge=0.1, smooth=0.1, pairs=1.0)


def people(random) -> Catalogue:
    kind = Ragged.from_lists([[int(one)] if one < 2 else [] for one in random.integers(0, 3, USERS)])
    age = Ragged.from_lists([[int(one)] for one in random.integers(0, 3, USERS)])
    attributes = {"kind": Attribute(("a", "b"), kind), "age": Attribute(("x", "y", "z"), age, (1.0, 5.0, 9.0))}
    return Catalogue(("",) * USERS, ("",) * USERS, attributes)


def world() -> tuple[sp.csr_matrix, Catalogue]:
    """Who has the value a chooses item 0 with one of 2 … 5, who has b item 1, the others only 2 … 5."""
    random = np.random.default_rng(0)
    who, dense = people(random), np.zeros((USERS, ITEMS), np.float32)
    for user in range(USERS):
        dense[user, 2 + random.choice(4, 2, replace=False)] = 1
        for value in who.values[user]:
            dense[user, value] = 1 if value < 2 else dense[user, value]
    return sp.csr_matrix(dense), who


def scores(rest: list[int], values: list[int], weights: np.ndarray, bias: np.ndarray, who: Catalogue) -> np.ndarray:
    history = sp.csr_matrix((np.ones(len(rest), np.float32), (np.zeros(len(rest), int), rest)), shape=(1, ITEMS))
    attributes = attribute_matrix(Ragged.from_lists([values]), who.kinds)
    return (with_attributes(history, attributes, len(weights)) @ weights + bias)[0]


@pytest.mark.parametrize("most", [10**6, 60 * ITEMS], ids=["all events", "some events"])
def test_the_gradient_is_that_of_the_loss(most, monkeypatch):
    monkeypatch.setattr(softmax, "_MAX_SCORES", most)
    matrix, who = world()
    rows = ITEMS + VALUES + ITEMS * VALUES
    task = softmax._Task.of(matrix, attribute_matrix(who.values, who.kinds), rows, 1.0)
    assert len(task.user_N) == min(matrix.nnz, most // ITEMS)
    random = np.random.default_rng(1)
    start = random.normal(size=((rows + 1), ITEMS)).astype(np.float32) / 4

    for _ in range(5):
        step = random.normal(size=start.shape).astype(np.float32) * np.float32(0.02)
        rise = task.loss(start + step)[0] - task.loss(start - step)[0]
        assert rise / 2 == pytest.approx(np.vdot(task.loss(start)[1], step), rel=0.02, abs=0.02)


def test_the_rest_is_scored_as_a_request_would_be():
    matrix, who = world()
    rows = ITEMS + VALUES + ITEMS * VALUES
    task = softmax._Task.of(matrix, attribute_matrix(who.values, who.kinds), rows, 1.0)
    weights = np.random.default_rng(2).normal(size=(rows + 1, ITEMS)).astype(np.float32)
    wanted = 0.0
    for user in range(USERS):
        chosen = matrix[user].indices.tolist()
        for hidden in chosen:
            rest = [item for item in chosen if item != hidden]
            asked = scores(rest, who.values[user].tolist(), weights[:-1], weights[-1], who)
            asked[rest] = -np.inf
            wanted += (np.log(np.exp(asked).sum()) - asked[hidden]) / len(chosen)
    assert task.loss(weights)[0] == pytest.approx(wanted, rel=1e-4)


def test_attributes_decide_where_they_say_something_and_only_there():
    matrix, who = world()
    weights, bias = hide_one_softmax(matrix, who, 1.0, LIGHT)
    assert weights.shape == (ITEMS + VALUES + ITEMS * VALUES, ITEMS)
    assert scores([2, 3], [0], weights, bias, who).argmax() == 0
    assert scores([2, 3], [1], weights, bias, who).argmax() == 1
    stranger = scores([2, 3], [], weights, bias, who)
    assert abs(stranger[0] - stranger[1]) < 0.5 * abs(scores([2, 3], [0], weights, bias, who)[0] - stranger[1])


def test_without_attributes_or_pairs_there_are_no_rows_for_them():
    matrix, who = world()
    blank = Catalogue.blank(who.titles)
    assert hide_one_softmax(matrix, blank, 1.0, LIGHT)[0].shape == (ITEMS, ITEMS)
    assert hide_one_softmax(matrix, who, 1.0, Penalties(0.1, 0.1, 0.0))[0].shape == (ITEMS + VALUES, ITEMS)


def test_neighbouring_ranges_are_drawn_together():
    matrix, who = world()
    rough, smooth = (hide_one_softmax(matrix, who, 1.0, Penalties(0.01, one, 0.0))[0] for one in (0.01, 1000.0))
    jumps = [np.abs(np.diff(weights[ITEMS + 2 : ITEMS + 5], axis=0)).max() for weights in (rough, smooth)]
    assert jumps[1] < 0.1 * jumps[0]


def test_a_value_that_nobody_has_weighs_nothing_and_users_of_one_item_are_left_out():
    matrix, who = world()
    unheard = Attribute(("a", "b", "never"), who.attributes["kind"].codes)
    named = Catalogue(who.texts, who.titles, who.attributes | {"kind": unheard})
    weights, _ = hide_one_softmax(matrix, named, 1.0, LIGHT)
    assert not weights[ITEMS + 2].any()
    single = sp.csr_matrix(np.eye(USERS, ITEMS, dtype=np.float32))
    weights, bias = hide_one_softmax(single, who, 1.0, LIGHT)
    assert not weights.any()
    assert not bias.any()
