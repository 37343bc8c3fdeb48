import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError
from lanner.serving import filters
from lanner.serving.filters import AttributeFilter
from lanner.serving.retrieval import RetrievalConfig, RowSet, build_index

VALUES = {"genre": ["drama", "comedy", "noir", "western"], "brand": ["a", "b"], "era": []}


def catalogue_of(items):
    """A catalogue whose item ``row`` holds ``items[row]``, values by attribute."""
    attributes = {
        name: Attribute(
            tuple(values), Ragged.from_lists([[values.index(v) for v in item.get(name, ())] for item in items])
        )
        for name, values in VALUES.items()
    }
    return Catalogue(("",) * len(items), tuple(map(str, range(len(items)))), attributes)


def brute_force(items, wanted):
    return [
        row
        for row, item in items.items()
        if all(set(item.get(name, ())) & set(asked) for name, asked in wanted.items())
    ]


HELD = st.fixed_dictionaries(
    {}, optional={name: st.lists(st.sampled_from(values), unique=True) for name, values in VALUES.items() if values}
)
LATER = st.dictionaries(
    st.sampled_from(["genre", "brand", "era"]),
    st.lists(st.sampled_from(["drama", "a", "b", "new", "newer"]), unique=True),
)
WANTED = st.dictionaries(
    st.sampled_from(["genre", "brand", "era"]),
    st.lists(st.sampled_from(["drama", "comedy", "noir", "a", "b", "new", "nobody's"]), max_size=4),
    min_size=1,
)
STEPS = st.lists(
    st.one_of(st.tuples(st.integers(0, 40), LATER), st.tuples(st.integers(0, 40), st.none()), WANTED), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(st.lists(HELD, max_size=12), STEPS, st.sampled_from([0, 3, 1024]))
def test_answers_are_those_of_a_scan_whatever_has_happened(held, steps, unnoticed):
    items = dict(enumerate(held))
    subject = AttributeFilter(catalogue_of(held))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "_CHANGES_UNNOTICED", unnoticed)
        for step in steps:
            if isinstance(step, dict):
                for _ in range(2):  # the second answer is a remembered one
                    answer = subject.allowed(step)
                    assert answer.rows().tolist() == sorted(brute_force(items, step))
                    assert answer.count == len(answer.rows())
            elif step[1] is None:
                subject.remove(step[0])
                items.pop(step[0], None)
            else:
                subject.put(*step)
                items[step[0]] = step[1]


def test_what_is_asked_is_checked_and_nothing_asked_is_no_filter():
    subject = AttributeFilter(catalogue_of([{"genre": ["noir"]}, {}]))
    with pytest.raises(ConfigError, match=r"unknown attribute 'gener'; did you mean 'genre'.*known.*brand, era, genre"):
        subject.allowed({"gener": ["noir"]})
    with pytest.raises(ConfigError, match="known attributes: none"):
        AttributeFilter(Catalogue.blank(("x",))).allowed({"genre": []})
    with pytest.raises(ValueError, match="row is -1"):
        subject.put(-1, {})
    subject.remove(-1)
    subject.remove(10**9)
    assert subject.allowed({}) is None
    assert subject.allowed({"era": ["1920s"]}).count == 0
    assert subject.allowed({"genre": []}).count == 0
    subject.put(5, {"colour": ["red"]})
    assert subject.allowed({"colour": ["red"]}).rows().tolist() == [5]


def test_a_remembered_answer_does_not_outlive_a_change():
    subject = AttributeFilter(catalogue_of([{"genre": ["noir"]}, {"genre": ["drama"]}]))
    ask = lambda: subject.allowed({"genre": ["noir"]}).rows().tolist()
    assert ask() == [0]
    subject.put(1, {"genre": ["noir"]})
    assert ask() == [0, 1]
    subject.remove(0)
    assert ask() == [1]


def test_memory_does_not_grow_with_changes_or_questions(monkeypatch):
    monkeypatch.setattr(filters, "_CHANGES_UNNOTICED", 20)
    subject = AttributeFilter(catalogue_of([{"genre": ["noir"]}] * 50))
    for change in range(2000):
        subject.put(change % 50, {"genre": [f"value {change}"]})
        subject.allowed({"genre": [f"value {change - 1}"]})
    for number in range(200):
        subject.allowed({"genre": [str(number)]})
    holders = subject._holders["genre"]
    assert len(holders.code_of) <= 50
    assert len(holders.rows.values) <= 50
    assert len(subject._changed) <= 21
    assert len(subject._changed_holders) <= 21
    assert len(subject._recent) <= filters._RECENT
    assert len(subject._outdated) == 7


def test_each_answer_is_of_one_moment_while_items_change(monkeypatch):
    monkeypatch.setattr(filters, "_CHANGES_UNNOTICED", 30)
    number = 200
    # Every item is a drama of brand a or a noir of brand b; half changed it would be missing, or a drama of brand b.
    subject = AttributeFilter(catalogue_of([{"genre": ["drama"], "brand": ["a"]}] * number))
    stop, failures, answers = threading.Event(), [], []

    def ask():
        try:
            while not stop.is_set():
                found = subject.allowed({"genre": ["drama", "noir"], "brand": ["a", "b"]})
                assert found.count == number
                assert subject.allowed({"genre": ["drama"], "brand": ["b"]}).count == 0
                answers.append(1)
        except BaseException as error:
            failures.append(error)

    def change():
        try:
            random = np.random.default_rng(0)
            for _ in range(2000):
                pair = ("drama", "a") if random.random() < 0.5 else ("noir", "b")
                subject.put(int(random.integers(number)), {"genre": [pair[0]], "brand": [pair[1]]})
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert answers


@pytest.mark.parametrize("kind", ["exact", "exact-int8", "hnsw", "ivf-pq"])
def test_a_filter_is_what_a_search_allows(kind):
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    items = random.standard_normal((3000, 8)).astype(np.float32)
    held = [{"genre": ["noir"] if row % 500 == 7 else ["drama"]} for row in range(3000)]
    subject, index = AttributeFilter(catalogue_of(held)), build_index(items, RetrievalConfig(kind))
    rows, _ = index.search(items[:2], 10, allow=subject.allowed({"genre": ["noir"]}))
    assert np.sort(rows[:, :6], axis=1).tolist() == [list(range(7, 3000, 500))] * 2
    assert (rows[:, 6:] == -1).all()
    assert (index.search(items[:2], 10, allow=subject.allowed({"genre": ["western"]}))[0] == -1).all()
    # A set may know more items than the index, or fewer.
    assert index.search(items[:1], 3, allow=RowSet.of(np.array([1, 9999]), 10_000))[0].tolist() == [[1, -1, -1]]
    assert index.search(items[:1], 3, allow=RowSet.of(np.array([1]), 2))[0].tolist() == [[1, -1, -1]]
