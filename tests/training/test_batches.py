"""Batches as functions of (seed, step)."""

import numpy as np
import pytest

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.training.batches import UserBatches


@pytest.fixture(scope="module")
def users() -> UserBatch:
    """Forty users; number 3 met nothing, number 5 one item twice, number 7 has repeats."""
    rng = np.random.default_rng(1)
    histories = [rng.choice(50, rng.integers(2, 12), replace=False).tolist() for _ in range(40)]
    histories[3], histories[5], histories[7] = [], [9, 9], [4, 2, 4, 8, 2]
    friends = Ragged.from_lists([[row] for row in range(40)])
    return UserBatch(Ragged.from_lists(histories), tuple(f"profile {row}" for row in range(40)), friends)


def content(batch) -> list:
    return [batch.rows.tolist(), *(a.tolist() for a in (batch.users.history.values, batch.row, batch.item))]


def test_a_step_gives_the_same_batch_whenever_and_by_whomever_it_is_asked(users):
    first, second = (UserBatches(users, 8, 0.5, seed=3) for _ in range(2))
    forward = [content(first.at(step)) for step in range(12)]
    backward = [content(second.at(step)) for step in reversed(range(12))][::-1]
    assert forward == backward
    assert content(UserBatches(users, 8, 0.5, seed=4).at(0)) != forward[0]


def test_every_able_user_comes_once_an_epoch_in_changing_order(users):
    batches = UserBatches(users, 7, 0.5, seed=0)
    assert batches.steps_per_epoch == 6
    epochs = [np.concatenate([batches.at(epoch * 6 + place).rows for place in range(6)]).tolist() for epoch in range(3)]
    able = sorted(set(range(40)) - {3, 5})
    assert all(sorted(epoch) == able for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_hidden_and_visible_parts_make_up_the_history_and_share_nothing(users):
    batches = UserBatches(users, 9, 0.5, seed=0)
    for step in range(10):
        batch = batches.at(step)
        for place, row in enumerate(batch.rows):
            visible = batch.users.history[place].tolist()
            hidden = batch.item[batch.row == place].tolist()
            assert sorted(visible + hidden) == sorted(set(users.history[row].tolist()))


def test_what_else_is_known_of_a_user_stays_with_them(users):
    batch = UserBatches(users, 9, 0.5, seed=0).at(2)
    assert batch.users.profiles == tuple(f"profile {row}" for row in batch.rows)
    assert batch.users.friends.values.tolist() == batch.rows.tolist()


def test_items_are_hidden_with_the_given_chance(users):
    batches = UserBatches(users, 38, 0.3, seed=0)
    share = np.mean([len(b.item) / (len(b.item) + len(b.users.history.values)) for b in map(batches.at, range(60))])
    assert share == pytest.approx(0.3, abs=0.02)


def test_users_who_met_one_item_at_most_give_an_empty_batch():
    batches = UserBatches(UserBatch(Ragged.from_lists([[1], []])), 4, 0.5, seed=0)
    assert batches.steps_per_epoch == 1
    assert len(batches.at(0).rows) == 0
