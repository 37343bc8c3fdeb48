import numpy as np
import pytest

from lanner.data.interactions import UserBatch
from lanner.data.narrowing import rated_only, sampled_negatives
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import DataError


def held_out(positives, seen, ratings=None):
    history = Ragged.from_lists(seen)
    return HeldOut(
        np.arange(len(seen)) + 5,
        UserBatch(history),
        Ragged.from_lists(positives),
        history,
        ratings=None if ratings is None else np.array(ratings, np.float32),
    )


def test_negatives_are_distinct_unseen_and_as_many_as_asked():
    asked = held_out([[3], [4, 5], [0]], [[0, 1, 1], list(range(6, 190)), []])
    narrowed = sampled_negatives(asked, num_items=200, number=99)
    for row, expected in enumerate([99, 14, 99]):
        candidates = narrowed.candidates[row].tolist()
        positives = asked.positives[row].tolist()
        assert candidates[: len(positives)] == positives
        negatives = candidates[len(positives) :]
        assert len(negatives) == len(set(negatives)) == expected
        assert not set(negatives) & (set(positives) | set(asked.excluded[row].tolist()))
        assert set(negatives) <= set(range(200))


def test_negatives_by_seed():
    asked = held_out([[3]], [[0]])
    first, again, other = (sampled_negatives(asked, 5000, 99, seed).candidates[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("num_items", [12, 100])
def test_negatives_are_uniform(num_items):
    users = 3000
    asked = held_out([[0]] * users, [[1]] * users)
    narrowed = sampled_negatives(asked, num_items, number=8)
    counts = np.bincount(narrowed.candidates.values, minlength=num_items)[2:]
    expected = users * 8 / (num_items - 2)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_rated_only_ranks_what_was_rated_and_likes_the_best():
    asked = held_out([[3, 4, 5], [6], [7, 8]], [[0], [1], [2]], [5, 2, 4, 1, 3, 4])
    narrowed = rated_only(asked, threshold=4)
    assert narrowed.rows.tolist() == [5, 7]
    assert [narrowed.positives[row].tolist() for row in range(2)] == [[3, 5], [8]]
    assert [narrowed.candidates[row].tolist() for row in range(2)] == [[3, 4, 5], [7, 8]]
    assert [narrowed.users.history[row].tolist() for row in range(2)] == [[0], [2]]
    assert narrowed.ratings.tolist() == [5, 4, 4]


def test_rated_only_needs_ratings():
    with pytest.raises(DataError, match="ratings"):
        rated_only(held_out([[1]], [[0]]), 4)
