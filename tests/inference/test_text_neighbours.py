"""The nearest texts of a large catalogue against exhaustive cosines."""

import numpy as np
import pytest

from lanner.inference.tables import Int8Rows, take
from lanner.inference.text_neighbours import TextNeighbours


@pytest.fixture(scope="module")
def texts() -> TextNeighbours:
    random = np.random.default_rng(0)
    centres = random.normal(size=(200, 64)) * 0.9 ** np.arange(64)
    features = centres[random.integers(0, 200, 20_000)] + 0.3 * random.normal(size=(20_000, 64)) * 0.9 ** np.arange(64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return TextNeighbours.of(Int8Rows.of(features.astype(np.float32)))


def test_most_of_the_nearest_are_found_and_their_cosines_are_exact(texts):
    everything = take(texts.features_IF)
    shares = []
    for row in range(0, 20_000, 997):
        rows, cosines = texts.nearest(everything[row], 20)
        exact = everything @ everything[row]
        assert np.allclose(cosines, exact[rows], atol=1e-5)
        shares.append(len(set(rows.tolist()) & set(np.argsort(-exact)[:20].tolist())) / 20)
    assert np.mean(shares) > 0.95


def test_only_those_that_may_be_are_found(texts):
    may = np.zeros(20_000, bool)
    may[100:18_000:2] = True
    assert set(texts.nearest(take(texts.features_IF)[5], 30, may)[0].tolist()) <= set(range(100, 18_000, 2))
    few = np.zeros(20_000, bool)
    few[7] = True
    assert texts.nearest(take(texts.features_IF)[5], 30, few)[0].tolist() == [7]
    assert len(texts.nearest(take(texts.features_IF)[5], 30, np.zeros(20_000, bool))[0]) == 0
