"""``benchmarks._reasons``: only the named items leave a user's request."""

import numpy as np

from benchmarks import _reasons
from benchmarks._quality_settings import STUDIES
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged


def test_all_else_that_is_known_of_a_user_stays():
    one = lambda *values: Ragged.from_lists([list(values)])
    users = UserBatch(one(4, 7, 9), ("likes w1",), one(2), np.array([1, 2, 3], np.float32), one(4, 7, 9, 11), one(5))
    rest = _reasons._without(users, [7])
    assert rest.history[0].tolist() == [4, 9]
    assert rest.weights.tolist() == [1, 3]
    kept = (rest.attributes[0].tolist(), rest.friends[0].tolist(), rest.seen[0].tolist(), rest.profiles)
    assert kept == ([5], [2], [4, 7, 9, 11], ("likes w1",))


def test_every_dataset_of_the_study_has_a_split():
    asked = {dataset for studies in STUDIES.values() for study, dataset, _ in studies if study == "reasons"}
    assert asked == set(_reasons.SPLIT_OF)
