"""Fewer dimensions and neurons: exact where they can be, the nearest where not."""

from dataclasses import replace

import numpy as np
import pytest

from lanner.compression.reduce import fewer_dimensions, fewer_neurons
from lanner.compression.steps import (
    Budget,
    Judge,
    choose_dimensions,
    choose_neurons,
    popularity_form,
    quantised,
    sample_of_users,
)
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.models.request_form import Int8Rows, RequestForm, RequestHead

ITEMS, WIDTH, HIDDEN = 60, 24, 8


def form_of_rank(rank: int, with_head: bool = False) -> RequestForm:
    random = np.random.default_rng(4)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    source, target = draw(ITEMS, rank) @ draw(rank, WIDTH), draw(ITEMS, rank) @ draw(rank, WIDTH)
    head = RequestHead(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN)) if with_head else None
    return RequestForm(source, target, draw(ITEMS), (10, 14), head)


def users_of(form: RequestForm, number: int = 200) -> np.ndarray:
    random = np.random.default_rng(5)
    lists = [random.choice(ITEMS, random.integers(1, 9), replace=False).tolist() for _ in range(number)]
    return form.users(UserBatch(Ragged.from_lists(lists)))


def rankings(form: RequestForm, users: np.ndarray) -> np.ndarray:
    scores = form.score(users)
    return scores - scores.mean(axis=1, keepdims=True)


def test_dimensions_nobody_uses_cost_nothing():
    form = form_of_rank(6)
    users = users_of(form)
    short = fewer_dimensions(form, users, 8)
    assert short.dimensions == 8
    history = UserBatch(Ragged.from_lists([[1, 5, 9], [2]]))
    assert np.allclose(
        rankings(short, short.users(history)),
        rankings(form, form.users(history)),
        atol=1e-2 * np.abs(form.score(users)).max(),
    )


def test_more_dimensions_err_less_and_beat_a_cut():
    form = form_of_rank(20)
    users = users_of(form)
    wanted = rankings(form, users)

    def error(rank: int) -> float:
        short = fewer_dimensions(form, users, rank)
        random = np.random.default_rng(5)
        lists = [random.choice(ITEMS, random.integers(1, 9), replace=False).tolist() for _ in range(200)]
        return float(((rankings(short, short.users(UserBatch(Ragged.from_lists(lists)))) - wanted) ** 2).mean())

    assert error(4) > error(8) > error(16)
    cut = replace(form, source_ID=form.source_ID[:, :8], target_ID=form.target_ID[:, :8], view_sizes=(8,))
    assert error(8) < ((rankings(cut, users[:, :8]) - wanted) ** 2).mean() / 2


@pytest.mark.parametrize("seed", range(8))
def test_a_heads_weights_do_not_drown_in_what_a_norm_takes_off(seed):
    form = form_of_rank(20, with_head=True)
    users = users_of(form) + np.random.default_rng(seed).normal(size=(200, WIDTH)).astype(np.float32)
    head = fewer_dimensions(form, users, 8).head
    assert np.abs(head.user_DH.mean(axis=0)).max() < 1e-4
    assert np.abs(head.user_DH).max() < 100


@pytest.mark.parametrize("rank", [0, WIDTH + 1])
def test_a_rank_that_cannot_be_is_refused(rank):
    form = form_of_rank(4)
    with pytest.raises(ValueError, match="rank must lie within"):
        fewer_dimensions(form, users_of(form), rank)


def test_neurons_that_do_nothing_go_first():
    form = form_of_rank(4, with_head=True)
    out = form.head.out_H.copy()
    out[[1, 6]] = 0
    form = replace(form, head=replace(form.head, out_H=out))
    users = users_of(form)
    fewer = fewer_neurons(form, users, HIDDEN - 2)
    assert len(fewer.head.out_H) == HIDDEN - 2
    assert fewer.head.user_DH.shape == (WIDTH, HIDDEN - 2)
    assert np.allclose(fewer.score(users), form.score(users), atol=1e-3)


def test_a_form_without_a_head_has_no_neurons_to_lose():
    form = form_of_rank(4)
    assert fewer_neurons(form, users_of(form), 3) is form


def held_out(form: RequestForm) -> HeldOut:
    """Users whose hidden items are those the form itself ranks first: any harm shows."""
    random = np.random.default_rng(6)
    histories = Ragged.from_lists([random.choice(ITEMS, 5, replace=False).tolist() for _ in range(60)])
    scores = form.score(form.users(UserBatch(histories)))
    scores[histories.row_of_value, histories.values] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :5]
    return HeldOut(np.arange(60), UserBatch(histories), Ragged.from_lists(list(best.astype(np.int32))), histories)


def test_the_search_takes_the_fewest_that_hold():
    form = form_of_rank(6)
    judge = Judge(form, held_out(form), None, 0.02)
    rank = choose_dimensions(judge, form, users_of(form), None)
    assert rank == 8
    assert judge.steps[0].ndcg_at_10 == pytest.approx(1.0)
    assert [step.kept for step in judge.steps[1:]] == [False] * (len(judge.steps) - 2) + [True]


def test_an_impossible_budget_keeps_all_dimensions():
    form = form_of_rank(24)
    assert choose_dimensions(Judge(form, held_out(form), None, 0.0), form, users_of(form), None) == WIDTH


def test_neurons_are_searched_only_where_there_are_some():
    form = form_of_rank(4)
    assert choose_neurons(Judge(form, held_out(form), None, 0.5), form, users_of(form), None) == 0
    with_head = form_of_rank(4, with_head=True)
    assert choose_neurons(Judge(with_head, held_out(with_head), None, 1.0), with_head, users_of(with_head), None) == 2


def test_quantised_tables_are_int8():
    form = quantised(form_of_rank(4, with_head=True))
    assert all(isinstance(table, Int8Rows) for table in (form.source_ID, form.target_ID, form.head.item_IH))


def test_popularity_ranks_by_count():
    counts = np.random.default_rng(0).permutation(ITEMS)
    scores = popularity_form(form_of_rank(4), counts).score(np.zeros((1, 1), np.float32))
    assert np.array_equal(np.argsort(-scores[0]), np.argsort(-counts))


def test_a_sample_of_users_is_bounded_and_steady():
    form = form_of_rank(4)
    many = UserBatch(Ragged.from_lists([[row % ITEMS] for row in range(30_000)]))
    sample = sample_of_users(form, many, None)
    assert sample.shape == (20_000, WIDTH)
    assert np.array_equal(sample, sample_of_users(form, many, None))


@pytest.mark.parametrize(("loss", "target"), [(-0.1, "latency"), (1.0, "size"), (0.1, "speed")])
def test_budgets_that_mean_nothing_are_refused(loss, target):
    with pytest.raises(ConfigError):
        Budget(loss, target)
