"""Arms get their shares, users keep their arm, and experiments are independent."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.errors import ConfigError
from lanner.serving.versions.experiments import Experiment

USERS = [f"user-{number}" for number in range(4_000)]
weights = st.lists(st.integers(1, 20), min_size=2, max_size=5)


def shares_of(counts: list[int]) -> dict[str, float]:
    return {f"arm{place}": count / sum(counts) for place, count in enumerate(counts)}


def assigned(experiment: Experiment) -> list[str]:
    return [experiment.arm_of(user) for user in USERS]


def likely(found: int, share: float, of: int = len(USERS)) -> bool:
    """Within five standard deviations of a binomial."""
    return abs(found - share * of) <= 5 * math.sqrt(of * share * (1 - share)) + 1


@settings(max_examples=15, deadline=None)
@given(weights, st.text(st.characters(codec="utf-8", categories=("L", "N")), max_size=8))
def test_every_arm_has_its_share(counts, salt):
    shares = shares_of(counts)
    found = Counter(assigned(Experiment("ladder", shares, salt)))
    assert all(likely(found[arm], share) for arm, share in shares.items())


@settings(max_examples=15, deadline=None)
@given(weights, st.integers(1, 40))
def test_when_one_arm_grows_only_those_who_must_move(counts, more):
    grown = [*counts[:-1], counts[-1] + more]
    before, after = shares_of(counts), shares_of(grown)
    last = f"arm{len(counts) - 1}"
    pairs = list(zip(assigned(Experiment("x", before)), assigned(Experiment("x", after)), strict=True))
    moved = [pair for pair in pairs if pair[0] != pair[1]]
    assert {to for _, to in moved} <= {last}
    assert likely(len(moved), after[last] - before[last])


@settings(max_examples=15, deadline=None)
@given(weights, st.data())
def test_nobody_moves_to_an_arm_that_lost_against_theirs(counts, data):
    others = data.draw(st.lists(st.integers(1, 20), min_size=len(counts), max_size=len(counts)))
    before, after = shares_of(counts), shares_of(others)
    for was, now in zip(assigned(Experiment("x", before)), assigned(Experiment("x", after)), strict=True):
        assert was == now or after[now] / before[now] >= after[was] / before[was]


def test_the_order_of_arms_does_not_matter_and_answers_never_change():
    first = Experiment("ladder", {"champion": 0.5, "challenger": 0.5})
    other = Experiment("ladder", {"challenger": 0.5, "champion": 0.5})
    assert assigned(first) == assigned(other)
    # Written down once: another release must not send users to other arms.
    letters = "".join("ah"[first.arm_of(f"u{number}") == "challenger"] for number in range(24))
    assert letters == "hahahaahhahaahahahahhhaa"


@pytest.mark.parametrize("other", [{"name": "colours"}, {"salt": "2"}])
def test_experiments_are_independent(other):
    shares = {"champion": 0.5, "challenger": 0.5}
    one = assigned(Experiment("ladder", shares))
    two = assigned(Experiment(**{"name": "ladder", "arms": shares, **other}))
    both = Counter(zip(one, two, strict=True))
    assert all(likely(both[a, b], 0.25) for a in shares for b in shares)


def test_salt_and_name_do_not_run_into_each_other():
    shares = {"a": 0.5, "b": 0.5}
    assert assigned(Experiment("bc", shares, "a")) != assigned(Experiment("c", shares, "ab"))


@pytest.mark.parametrize(
    ("name", "arms", "salt", "said"),
    [
        ("", {"a": 0.5, "b": 0.5}, "", "experiment name: ''"),
        ("x\n", {"a": 0.5, "b": 0.5}, "", r"experiment name: 'x\\n'"),
        ("x", {"a": 0.5, "": 0.5}, "", "experiment arm: ''"),
        ("x", {"a": 0.5, "b": 0.5}, "\0", "the salt contains NUL"),
        ("x", {"a": 1.0}, "", r"has 1 arm\(s\), it must have at least 2"),
        ("x", {"a": 0.5, "b": 0.4}, "", "shares sum to 0.9, they must sum to 1"),
        ("x", {"a": 1.0, "b": 0.0}, "", "the share of 'a' is 1.0, it must be between 0 and 1"),
        ("x", {"a": math.nan, "b": 0.5}, "", "the share of 'a' is nan"),
        ("x", {"a": -0.5, "b": 1.5}, "", "the share of 'a' is -0.5"),
    ],
)
def test_what_is_no_experiment_is_said(name, arms, salt, said):
    with pytest.raises(ConfigError, match=said):
        Experiment(name, arms, salt)
