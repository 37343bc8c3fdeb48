"""Fewer dimensions and neurons: exact where possible, otherwise the closest approximation."""

from dataclasses import replace

import numpy as np
import pytest

from lanner.compression.reduce import can_shorten, fewer_dimensions, fewer_neurons
from lanner.compression.steps import (
    Budget,
    Evaluator,
    choose_dimensions,
    choose_neurons,
    quantised,
    sample_of_users,
)
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.inference.heads import Head
from lanner.inference.scoring_model import FoldIn, ScoringModel
from lanner.inference.tables import Int8Rows, take

ITEMS, WIDTH, HIDDEN = 60, 24, 8


def model_of_rank(rank: int, with_head: bool = False) -> ScoringModel:
    random = np.random.default_rng(4)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    source, target = draw(ITEMS, rank) @ draw(rank, WIDTH), draw(ITEMS, rank) @ draw(rank, WIDTH)
    head = Head(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN)) if with_head else None
    return ScoringModel(source, target, draw(ITEMS), np.ones(ITEMS, np.float32), (10, 14), head=head)


def some_users(number: int = 200) -> UserBatch:
    random = np.random.default_rng(5)
    lists = [random.choice(ITEMS, random.integers(1, 9), replace=False).tolist() for _ in range(number)]
    return UserBatch(Ragged.from_lists(lists))


def centred_scores(model: ScoringModel, users: UserBatch) -> np.ndarray:
    scores = model.score(users)
    return scores - scores.mean(axis=1, keepdims=True)


def test_unused_dimensions_cost_nothing():
    model, users = model_of_rank(6), some_users()
    short = fewer_dimensions(model, model.users(users), 8)
    assert short.dimensions == 8
    largest = np.abs(model.score(users)).max()
    assert np.allclose(centred_scores(short, users), centred_scores(model, users), atol=1e-2 * largest)


def test_more_dimensions_err_less_and_beat_a_cut():
    model, users = model_of_rank(20), some_users()
    wanted = centred_scores(model, users)

    def error(smaller: ScoringModel) -> float:
        return float(((centred_scores(smaller, users) - wanted) ** 2).mean())

    short = [error(fewer_dimensions(model, model.users(users), rank)) for rank in (4, 8, 16)]
    assert short[0] > short[1] > short[2]
    cut = replace(model, source_ID=model.source_ID[:, :8], target_ID=model.target_ID[:, :8], view_sizes=(8,))
    assert short[1] < error(cut) / 2


def test_what_texts_and_friends_add_is_shortened_too():
    draw = lambda *shape: np.random.default_rng(7).normal(size=shape).astype(np.float32)
    model = replace(model_of_rank(6), text_FD=draw(5, 6) @ draw(6, WIDTH), friends_UD=draw(9, WIDTH))
    short = fewer_dimensions(model, model.users(some_users()), 8)
    assert short.text_FD.shape == (5, 8)
    assert short.friends_UD.shape == (9, 8)


@pytest.mark.parametrize("seed", range(8))
def test_a_heads_weights_do_not_drown_in_what_a_norm_takes_off(seed):
    model = model_of_rank(20, with_head=True)
    users = model.users(some_users()) + np.random.default_rng(seed).normal(size=(200, WIDTH)).astype(np.float32)
    head = fewer_dimensions(model, users, 8).head
    assert np.abs(head.user_DH.mean(axis=0)).max() < 1e-4
    assert np.abs(head.user_DH).max() < 100


@pytest.mark.parametrize("rank", [0, WIDTH + 1])
def test_a_rank_that_cannot_be_is_refused(rank):
    model = model_of_rank(4)
    with pytest.raises(ValueError, match="rank must be within"):
        fewer_dimensions(model, model.users(some_users()), rank)


def test_a_model_whose_users_are_solved_for_keeps_its_dimensions():
    solved = replace(model_of_rank(4), fold_in=FoldIn(np.eye(WIDTH, dtype=np.float32), 2.0))
    assert can_shorten(model_of_rank(4))
    assert not can_shorten(solved)
    assert choose_dimensions(Evaluator(solved, held_out(solved), None, 0.5), solved, np.ones((2, WIDTH)), None) == WIDTH


def test_neurons_that_do_nothing_go_first():
    model, users = model_of_rank(4, with_head=True), some_users()
    out = model.head.out_H.copy()
    out[[1, 6]] = 0
    model = replace(model, head=replace(model.head, out_H=out))
    fewer = fewer_neurons(model, model.users(users), HIDDEN - 2)
    assert len(fewer.head.out_H) == HIDDEN - 2
    assert fewer.head.user_DH.shape == (WIDTH, HIDDEN - 2)
    assert np.allclose(fewer.score(users), model.score(users), atol=1e-3)


def test_a_model_without_a_head_has_no_neurons_to_lose():
    model = model_of_rank(4)
    assert fewer_neurons(model, model.users(some_users()), 3) is model


def held_out(model: ScoringModel) -> HeldOut:
    """Users whose hidden items are those the model itself ranks first: any harm shows."""
    random = np.random.default_rng(6)
    histories = Ragged.from_lists([random.choice(ITEMS, 5, replace=False).tolist() for _ in range(60)])
    scores = model.score(UserBatch(histories))
    scores[histories.row_of_value, histories.values] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :5]
    return HeldOut(np.arange(60), UserBatch(histories), Ragged.from_lists(list(best.astype(np.int32))), histories)


def test_the_search_takes_the_fewest_that_hold():
    model = model_of_rank(6)
    evaluator = Evaluator(model, held_out(model), None, 0.02)
    assert choose_dimensions(evaluator, model, model.users(some_users()), None) == 8
    assert evaluator.steps[0].ndcg_at_10 == pytest.approx(1.0)
    assert [step.kept for step in evaluator.steps[1:]] == [False] * (len(evaluator.steps) - 2) + [True]


def test_an_impossible_budget_keeps_all_dimensions():
    model = model_of_rank(24)
    evaluator = Evaluator(model, held_out(model), None, 0.0)
    assert choose_dimensions(evaluator, model, model.users(some_users()), None) == WIDTH


def test_neurons_are_searched_only_where_there_are_some():
    for model, budget, number in ((model_of_rank(4), 0.5, 0), (model_of_rank(4, with_head=True), 1.0, 2)):
        evaluator = Evaluator(model, held_out(model), None, budget)
        assert choose_neurons(evaluator, model, model.users(some_users()), None) == number


def test_every_dense_table_is_quantised():
    draw = lambda *shape: np.random.default_rng(7).normal(size=shape).astype(np.float32)
    more = {"profile_FD": draw(5, WIDTH), "text_FD": draw(5, WIDTH), "friends_UD": draw(9, WIDTH)}
    model = quantised(replace(model_of_rank(4, with_head=True), **more))
    tables = {name: getattr(model, name) for name in ("source_ID", "target_ID", *more)} | {"head": model.head.item_IH}
    assert {name for name, table in tables.items() if not isinstance(table, Int8Rows)} == set()
    assert np.allclose(take(model.text_FD), more["text_FD"], atol=0.02)


def test_a_sample_of_users_is_bounded_and_steady():
    model = model_of_rank(4)
    many = UserBatch(Ragged.from_lists([[row % ITEMS] for row in range(30_000)]))
    sample = sample_of_users(model, many, None)
    assert sample.shape == (20_000, WIDTH)
    assert np.array_equal(sample, sample_of_users(model, many, None))


@pytest.mark.parametrize(("loss", "target"), [(-0.1, "latency"), (1.0, "size"), (0.1, "speed")])
def test_budgets_that_mean_nothing_are_refused(loss, target):
    with pytest.raises(ConfigError):
        Budget(loss, target)
