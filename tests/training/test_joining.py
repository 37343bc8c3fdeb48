"""The search for settings and weights of the hybrid's parts."""

import numpy as np
import pytest

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.ranking import top_k
from lanner.data.split import HeldOut
from lanner.evaluation.metrics import ndcg
from lanner.training.joining import Candidates

USERS, ITEMS = 80, 40


@pytest.fixture
def world():
    """Scores that know the answers, scores that are noise, and each user asked for two items."""
    random = np.random.default_rng(0)
    knows = random.standard_normal((USERS, ITEMS)).astype(np.float32)
    noise = 50 * random.standard_normal((USERS, ITEMS)).astype(np.float32)
    seen = Ragged.from_lists([sorted(random.choice(ITEMS, 3, replace=False).tolist()) for _ in range(USERS)])
    shown = knows.copy()
    shown[seen.row_of_value, seen.values] = -np.inf
    positives = Ragged.from_lists(np.argsort(-shown, axis=1)[:, :2].tolist())
    return knows, noise, HeldOut(np.arange(USERS), UserBatch(seen), positives, seen)


def part(scores: np.ndarray):
    """As the search asks: the users of a block are told by their histories."""
    return lambda users: scores[rows_of(users)].copy()


def rows_of(users: UserBatch) -> np.ndarray:
    return np.array([ROWS[tuple(users.history[user].tolist())] for user in range(len(users))])


ROWS: dict[tuple[int, ...], int] = {}


@pytest.fixture(autouse=True)
def names_of_users(world):
    held_out = world[2]
    ROWS.clear()
    ROWS.update({tuple(held_out.users.history[row].tolist()): row for row in range(len(held_out))})


def test_the_part_that_knows_is_taken_and_noise_weighs_nothing(world):
    knows, noise, held_out = world
    weights, quality = Candidates.of([part(noise), part(knows)], held_out, 0.0).search(0.0005)
    assert weights[0] == 0
    assert weights[1] > 0
    assert quality == pytest.approx(1)


def test_two_halves_are_joined_whatever_their_scale(world):
    knows, _, held_out = world
    random = np.random.default_rng(1)
    half = random.standard_normal(knows.shape).astype(np.float32)
    parts = [part(1000 * (knows / 2 + half)), part(knows / 2 - half)]
    found = Candidates.of(parts, held_out, 0.0)
    weights, quality = found.search(0.0005)
    assert quality > max(found.quality(one) for one in np.eye(2)) + 0.2
    assert weights[1] / weights[0] == pytest.approx(1000, rel=0.5)


def test_a_part_that_repeats_another_is_dropped(world):
    knows, _, held_out = world
    weights, _ = Candidates.of([part(knows), part(2 * knows)], held_out, 0.0).search(0.0005)
    assert (weights > 0).sum() == 1


def test_a_part_that_tells_no_items_apart_does_no_harm(world):
    knows, _, held_out = world
    weights, quality = Candidates.of([part(np.zeros_like(knows)), part(knows)], held_out, 0.0).search(0.0005)
    assert np.isfinite(weights).all()
    assert quality == pytest.approx(1)


def test_seen_items_are_no_candidates(world):
    knows, _, held_out = world
    scores = knows.copy()
    scores[held_out.excluded.row_of_value, held_out.excluded.values] = 1e6
    found = Candidates.of([part(scores)], held_out, 0.0)
    assert found.values_BCV.max() < 1e5
    assert found.quality(np.ones(1)) == pytest.approx(1)


def test_the_search_measures_ndcg_as_ranking_does():
    random = np.random.default_rng(2)
    values_BCV = random.integers(0, 4, (60, 30, 2)).astype(np.float32)  # few values, many ties
    is_real_BC, is_hit_BC = random.random((2, 60, 30)) < [[[0.8]], [[0.1]]]
    lengths_B = np.maximum(is_hit_BC.sum(1), 1)
    weights = np.array([1.0, 2.0])
    total_BC = np.where(is_real_BC, values_BCV @ weights.astype(np.float32), -np.inf).astype(np.float32)
    places = top_k(total_BC, 10)[0]
    hits = np.take_along_axis(is_hit_BC, np.maximum(places, 0), 1) & (places >= 0)
    found = Candidates(values_BCV, is_hit_BC, is_real_BC, lengths_B, np.ones(2, np.float32)).quality(weights)
    assert found == pytest.approx(ndcg(hits, lengths_B, 10).mean(), abs=1e-12)
