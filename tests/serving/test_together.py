"""Plain requests answered together are answered as one by one."""

import numpy as np
import pytest

from lanner.artifacts.ladder import Rung
from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, RequestHead
from lanner.serving.answering import Found, Question, find, is_quick, work_on
from lanner.serving.engine import Engine, add_items
from lanner.serving.together import answer_together

ITEMS, WIDTH, HIDDEN = 90, 12, 6
RANDOM = np.random.default_rng(4)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng([4, *shape]).normal(size=shape).astype(np.float32)


def make_form(kind: str) -> RequestForm:
    if kind == "popularity":
        return RequestForm(np.zeros((ITEMS, 1), np.float32), np.zeros((ITEMS, 1), np.float32), draw(ITEMS), (1,))
    head = RequestHead(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN))
    form = RequestForm(draw(ITEMS, WIDTH), draw(ITEMS, 1, WIDTH)[:, 0], draw(ITEMS), (5, 7), head)
    if kind == "no head":
        return RequestForm(form.source_ID, form.target_ID, form.bias_I, (5, 7))
    return form.map_tables(Int8Rows.of) if kind == "int8" else form


def make_engine(kind: str) -> Engine:
    return Engine(Rung("any", make_form(kind)), candidates=20)


HISTORIES = [np.array([3, 9, 3, 40]), np.empty(0, np.int64), RANDOM.integers(0, ITEMS, 30), np.array([88])]


@pytest.mark.parametrize("kind", ["full", "int8", "no head", "popularity"])
@pytest.mark.parametrize("exclude", [True, False])
def test_it_answers_as_one_by_one(kind, exclude):
    engine = make_engine(kind)
    ks = [7, 1, 30, 200]
    answers = answer_together(engine, HISTORIES, ks, [exclude] * 4)
    for answer, history, k in zip(answers, HISTORIES, ks, strict=True):
        expected = engine.answer(history, k, exclude_seen=exclude)
        np.testing.assert_array_equal(answer.items, expected.items)
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "int8"])
def test_items_that_came_later_are_met_and_found(kind):
    engine = make_engine(kind)
    best = 3 * draw(2, WIDTH)
    add_items([engine], ItemRows(best, best, np.full(2, 99, np.float32), draw(2, HIDDEN)))
    history = np.array([ITEMS, 5])
    answer, stranger = answer_together(engine, [history, np.array([7])], [5, 5], [True, True])
    np.testing.assert_array_equal(answer.items, engine.answer(history, 5).items)
    np.testing.assert_array_equal(stranger.items, engine.answer([7], 5).items)
    assert ITEMS + 1 in answer.items
    assert ITEMS not in answer.items


def test_what_is_not_plain_or_fails_is_answered_alone():
    engine = make_engine("full")
    plain, outside = Question(HISTORIES[0], None, None, 5), Question(np.array([ITEMS]), None, None, 5)
    explained = Question(HISTORIES[2], None, None, 5, explain=True)
    barred = Question(HISTORIES[0], None, None, 5, deny=find(engine, plain).answer.items)
    broken = lambda engine: 1 / 0
    called = lambda engine: Found(engine.similar(3, 2))
    first, wrong, with_parts, other, failed, similar = work_on(
        engine, [plain, outside, explained, barred, broken, called]
    )
    np.testing.assert_array_equal(first.answer.items, find(engine, plain).answer.items)
    assert isinstance(wrong, ValueError)
    assert "do not fit 90 items" in str(wrong)
    assert with_parts.parts is not None
    assert not set(other.answer.items) & set(first.answer.items)
    assert isinstance(failed, ZeroDivisionError)
    assert len(similar.answer.items) == 2


def test_the_calls_are_made_once_for_all(monkeypatch):
    engine, calls = make_engine("full"), []
    search = engine.index.search
    monkeypatch.setattr(engine.index, "search", lambda *asked, **named: calls.append(1) or search(*asked, **named))
    work_on(engine, [Question(one, None, None, 5) for one in HISTORIES])
    assert len(calls) == 1


def test_only_a_plain_list_of_what_is_popular_is_quick():
    plain = Question(np.array([3]), None, None, 5)
    filtered = Question(np.array([3]), None, None, 5, deny=np.array([4]))
    popular, personal = make_engine("popularity"), make_engine("full")
    answers = [is_quick(popular, plain), is_quick(popular, filtered), is_quick(personal, plain)]
    assert answers == [True, False, False]
    assert not is_quick(popular, lambda engine: find(engine, plain))
