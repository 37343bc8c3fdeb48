from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.splitting import cold_items, global_time, leave_last_out, published, random_ratio
from lanner.errors import ConfigError, DataError


def dataset(events, num_users=None, num_items=None, **columns):
    """``events``: (user, item) pairs, oldest first."""
    user, item = np.array(events, np.int32).reshape(-1, 2).T
    num_users = num_users or int(user.max(initial=-1)) + 1
    num_items = num_items or int(item.max(initial=-1)) + 1
    users, items = (IdMap([str(row) for row in range(n)]) for n in (num_users, num_items))
    return Dataset(
        Interactions(np.ascontiguousarray(user), np.ascontiguousarray(item), **columns),
        users,
        items,
        Catalogue.blank(items.external),
        Catalogue.blank(users.external),
        has_order=True,
    )


def random_dataset(seed=0, num_users=30, num_items=40, num_events=600):
    rng = np.random.default_rng(seed)
    events = np.stack([rng.integers(0, num_users, num_events), rng.integers(0, num_items, num_events)], 1)
    return dataset(
        events,
        num_users,
        num_items,
        timestamp=np.sort(rng.integers(0, 200, num_events)),
        weight=rng.integers(1, 6, num_events).astype(np.float32),
    )


def pairs(held_out):
    return set(zip(held_out.rows[held_out.positives.row_of_value], held_out.positives.values.tolist(), strict=True))


def event_pairs(one):
    return set(zip(one.interactions.user.tolist(), one.interactions.item.tolist(), strict=True))


def excluded_pairs(held_out):
    return set(zip(held_out.rows[held_out.excluded.row_of_value], held_out.excluded.values.tolist(), strict=True))


def assert_sound(split, whole):
    assert split.train.num_items == split.refit.num_items == whole.num_items
    assert split.train.num_users == whole.num_users
    assert event_pairs(split.refit) <= event_pairs(whole)
    for held_out, known in ((split.validation, split.train), (split.test, split.refit)):
        assert len(held_out.rows) == len(held_out.users) == len(held_out.positives) == len(held_out.excluded)
        assert (held_out.positives.lengths > 0).all()
        assert pairs(held_out) <= event_pairs(whole)
        assert len(pairs(held_out)) == len(held_out.positives.values), "positives are distinct"
        for place, row in enumerate(held_out.rows):
            assert held_out.users.history[place].tolist() == known.histories[int(row)].tolist()


SPLITS = {
    "random_ratio": random_ratio,
    "leave_last_out": leave_last_out,
    "global_time": global_time,
    "cold_items": cold_items,
    "published": lambda whole, seed=0: published(
        whole.with_interactions(
            replace(
                whole.interactions,
                partition=(np.arange(len(whole.interactions)) % 5 == 0).astype(np.uint8),
                partitions=("train", "test"),
            )
        ),
        seed=seed,
    ),
}
SEEDED = ("random_ratio", "cold_items", "published")


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_is_sound(name):
    whole = random_dataset()
    assert_sound(SPLITS[name](whole), whole)


@pytest.mark.parametrize("name", SEEDED)
def test_seed_decides(name):
    whole = random_dataset()
    first, again, other = (SPLITS[name](whole, seed=seed) for seed in (1, 1, 2))
    assert pairs(first.test) == pairs(again.test)
    assert pairs(first.validation) == pairs(again.validation)
    assert pairs(first.validation) != pairs(other.validation)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), test=st.floats(0.15, 0.6), validation=st.floats(0, 0.5))
def test_random_ratio_partitions_the_distinct_pairs(seed, test, validation):
    whole = random_dataset(seed, num_users=8, num_items=12, num_events=70)
    split = random_ratio(whole, test, validation, seed)
    parts = [event_pairs(split.train), pairs(split.validation), pairs(split.test)]
    assert parts[0] | parts[1] | parts[2] == event_pairs(whole)
    assert sum(map(len, parts)) == len(event_pairs(whole))
    assert excluded_pairs(split.test) == {
        pair for pair in event_pairs(split.refit) if pair[0] in set(split.test.rows.tolist())
    }
    for user in range(8):
        total = len({pair for pair in event_pairs(whole) if pair[0] == user})
        asked = sum(pair[0] == user for pair in parts[2])
        assert asked == min(int(total * test + 0.5), max(total - 1, 0))


def test_random_ratio_gives_the_rating_of_the_last_of_repeated_events():
    whole = dataset([(0, 0), (0, 0), (0, 0)] + [(0, 1)] * 3, weight=np.array([1, 2, 3, 4, 5, 6], np.float32))
    split = random_ratio(whole, test=0.5, validation=0.0)
    assert split.test.ratings.tolist() == [{0: 3.0, 1: 6.0}[split.test.positives.values[0]]]
    assert len(split.train.interactions) == 3


def test_leave_last_out_by_hand():
    whole = dataset([(0, 3), (1, 0), (0, 1), (0, 3), (1, 2), (2, 4), (0, 2), (0, 1)])
    split = leave_last_out(whole)
    assert pairs(split.test) == {(1, 2)}, "user 0 has seen item 1 before: among unseen items it would stand out"
    assert pairs(split.validation) == {(0, 2)}
    assert event_pairs(split.train) == {(0, 3), (0, 1), (1, 0), (2, 4)}
    assert excluded_pairs(split.test) == {(1, 0)}
    everything = leave_last_out(whole, exclude="nothing")
    assert pairs(everything.test) == {(0, 1), (1, 2)}
    assert pairs(everything.validation) == {(0, 2)}
    assert everything.test.users.history[0].tolist() == [3, 1, 3, 2]
    assert excluded_pairs(everything.test) == set()
    assert (split.name, everything.name) == ("leave-last-out", "leave-last-out-all-items")


def test_leave_last_out_needs_order():
    with pytest.raises(DataError, match="order"):
        leave_last_out(replace(dataset([(0, 0), (0, 1)]), has_order=False))


def test_global_time_by_hand():
    whole = dataset([(0, 0), (1, 1), (0, 1), (1, 0), (2, 3), (1, 1)], timestamp=np.array([1, 2, 3, 3, 5, 6]))
    split = global_time(whole, test=0.34, validation=0.25)
    assert pairs(split.test) == {(2, 3)}, "user 1 has seen item 1 before"
    assert event_pairs(split.refit) == {(0, 0), (1, 1), (0, 1), (1, 0)}
    assert split.test.users.history[0].tolist() == []


def test_global_time_tells_nanoseconds_apart():
    times = 1_600_000_000_000_000_000 + np.arange(10)
    split = global_time(dataset([(0, item) for item in range(10)], timestamp=times), validation=0.0)
    assert pairs(split.test) == {(0, 8), (0, 9)}


def test_global_time_keeps_one_moment_together():
    whole = random_dataset()
    split = global_time(whole)
    assert split.train.interactions.timestamp.max() < split.refit.interactions.timestamp.max()
    assert not set(split.train.interactions.timestamp) & (
        set(split.refit.interactions.timestamp) - set(split.train.interactions.timestamp)
    )
    assert len(split.refit.interactions) >= 0.8 * len(whole.interactions)


def test_global_time_needs_timestamps():
    with pytest.raises(DataError, match="timestamps"):
        global_time(dataset([(0, 0), (0, 1)]))


def test_cold_items_are_unseen_and_ranked_among_themselves():
    whole = random_dataset()
    split = cold_items(whole, share=0.25, validation_share=0.2, seed=3)
    cold, warm = set(split.test.candidates.tolist()), set(split.train.interactions.item.tolist())
    later = set(split.validation.candidates.tolist())
    assert len(cold) == 10
    assert len(later) == 6
    assert not cold & warm
    assert not later & warm
    assert not cold & later
    assert set(split.test.positives.values.tolist()) == cold
    assert set(split.refit.interactions.item.tolist()) == warm | later


def test_cold_items_among_all():
    whole = random_dataset()
    split = cold_items(whole, share=0.25, seed=3, among="all")
    assert len(split.test.candidates) == whole.num_items
    assert len(split.validation.candidates) == whole.num_items - 10
    assert not set(split.validation.candidates.tolist()) & set(split.test.positives.values.tolist())


def test_published_keeps_its_labels():
    events = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 3)]
    labels = np.array([1, 0, 2, 1, 2], np.uint8)
    whole = dataset(events, partition=labels, partitions=("validation", "train", "test"))
    split = published(whole)
    assert event_pairs(split.train) == {(0, 0), (1, 0)}
    assert pairs(split.validation) == {(0, 1)}
    assert pairs(split.test) == {(0, 2), (1, 3)}


def test_published_needs_labels():
    with pytest.raises(DataError, match="no published split"):
        published(dataset([(0, 0), (0, 1)]))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range_name_the_setting(share):
    with pytest.raises(ConfigError, match="test must be"):
        random_ratio(random_dataset(), test=share)


@pytest.mark.parametrize("name", SPLITS)
def test_nothing_to_hold_out_is_one_clear_line(name):
    for whole in (dataset([], 1, 1), dataset([(0, 0)], timestamp=np.array([5]))):
        with pytest.raises(DataError) as caught:
            SPLITS[name](whole)
        assert "\n" not in str(caught.value)
