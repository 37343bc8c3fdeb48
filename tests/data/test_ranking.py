import threading

import numpy as np
import pytest

from lanner.data.ranking import top_k


def plain_top_k(scores, k):
    """The slow clear twin: sort (worst score last, lower column first), drop what cannot be ranked."""
    items = np.full((len(scores), k), -1)
    for row, line in enumerate(scores):
        ranked = sorted((column for column in range(len(line)) if line[column] > -np.inf), key=lambda c: (-line[c], c))
        items[row, : len(ranked[:k])] = ranked[:k]
    return items


@pytest.mark.parametrize("k", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("num_items", [0, 1, 63, 64, 65, 257])
def test_agrees_with_sorting_under_ties_nan_and_infinities(k, num_items):
    rng = np.random.default_rng(num_items)
    scores = rng.integers(-5, 5, (9, num_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    scores[rng.random(scores.shape) < 0.05] = np.inf
    items, values = top_k(scores, k)
    expected = plain_top_k(scores, k)
    np.testing.assert_array_equal(items, expected)
    filled = expected >= 0
    np.testing.assert_array_equal(values[filled], scores[np.nonzero(filled)[0], expected[filled]])
    assert np.isneginf(values[~filled]).all()


@pytest.mark.parametrize("order", [1, -1])
def test_ascending_and_descending_rows(order):
    scores = np.arange(1000, dtype=np.float32)[None, ::order]
    best = top_k(scores, 3)[0][0].tolist()
    assert best == ([999, 998, 997] if order == 1 else [0, 1, 2])


def test_large_blocks_are_shared_out_without_mixing_rows():
    scores = np.random.default_rng(0).random((67, 20_000), dtype=np.float32)
    items, values = top_k(scores, 5)
    np.testing.assert_array_equal(items, np.argsort(-scores, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(values, np.take_along_axis(scores, items.astype(np.int64), axis=1))


def test_may_be_entered_by_several_threads_at_once():
    scores = np.random.default_rng(0).random((40, 20_000), dtype=np.float32)
    expected, found = top_k(scores, 5)[0], []
    threads = [threading.Thread(target=lambda: found.append(top_k(scores, 5)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(one, expected) for one in found)


def test_scores_are_left_as_they_were():
    scores = np.array([[3, 1, 2]], np.float32)
    top_k(scores, 2)
    assert scores.tolist() == [[3, 1, 2]]
