"""Properties shared by all errors."""

import pytest

from lanner.errors import nearest


@pytest.mark.parametrize(
    ("name", "likeness", "expected"),
    [("regularization", 0.6, "regularisation"), ("depth", 0.6, None), ("ratio", 0.6, "ratios"), ("ratio", 0.95, None)],
)
def test_a_misspelt_name_is_near_one_that_is_like_it(name, likeness, expected):
    assert nearest(name, {"regularisation": 1, "ratios": 2}, likeness) == expected


def test_nothing_is_near_where_nothing_is_known():
    assert nearest("name", []) is None
