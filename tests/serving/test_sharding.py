"""Items dealt into parts are answered as one engine of all items answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lanner.artifacts.ladder import Rung
from lanner.compression.steps import quantised
from lanner.errors import StoreUnavailableError
from lanner.models.request_form import Int8Rows, RequestForm, RequestHead
from lanner.models.request_items import ItemReader
from lanner.models.text_neighbours import TextNeighbours
from lanner.serving.answering import Question, find
from lanner.serving.engine import Engine
from lanner.serving.item_index import item_index
from lanner.serving.many_machines.shard import index_of_part
from lanner.serving.messages import RecommendAnswer, RecommendedItem, Served
from lanner.serving.retrieval import RowSet
from lanner.serving.sharding import Best, Gathered, Part, PartEngine, merged, part_of, together

ITEMS, WIDTH, HIDDEN, FEATURES = 90, 12, 6, 4
IDS = [f"i{row}" for row in range(ITEMS)]
NOBODY = np.empty(0, np.int64)
TEXT = np.array([1.0, 2.0, 0.5, 0.0], np.float32)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng([5, *shape]).normal(size=shape).astype(np.float32)


def make_form(kind: str) -> RequestForm:
    if kind == "popularity":
        return RequestForm(np.zeros((ITEMS, 1), np.float32), np.zeros((ITEMS, 1), np.float32), draw(ITEMS), (1,))
    head = RequestHead(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN))
    profile = draw(FEATURES, WIDTH)
    form = RequestForm(draw(ITEMS, WIDTH), draw(ITEMS, 1, WIDTH)[:, 0], draw(ITEMS), (5, 7), head, profile)
    if kind == "no head":
        return replace(form, head=None)
    return quantised(form) if kind == "int8" else form


def form_of(form: RequestForm, rows: np.ndarray) -> RequestForm:
    """The form of some items alone."""
    cut = lambda table: Int8Rows(table.codes[rows], table.scale[rows]) if isinstance(table, Int8Rows) else table[rows]
    return replace(form.map_tables(cut), bias_I=form.bias_I[rows])


def reader(items: int) -> ItemReader:
    maps = draw(FEATURES, 7), draw(FEATURES, 1, 7)[:, 0]
    texts = TextNeighbours.of(Int8Rows.of(np.eye(max(items, 4), FEATURES, dtype=np.float32)))
    weights, nothing = np.ones((2, 2), np.float32), np.zeros(FEATURES, np.float32)
    return ItemReader(texts, np.ones(items, bool), 1, (5, 7), weights, *maps, nothing, 0.0, draw(items), None, 3)


BACKEND = SimpleNamespace(reader=object(), reads_texts=True, features=lambda texts: np.stack([TEXT] * len(texts)))


class Parts:
    """Parts of a form, asked as a front asks them."""

    def __init__(self, form: RequestForm, parts: list[np.ndarray], candidates: int = ITEMS) -> None:
        self.engines = []
        for rows in parts:
            rung = Rung("any", form_of(form, rows))
            index = index_of_part(item_index(rung.form, candidates), rung, rows, ITEMS)
            self.engines.append(PartEngine(rung, rows, ITEMS, index, BACKEND, candidates, reader(0)))

    def answer(self, question: Question) -> RecommendAnswer:
        user = together([engine.gathered(question.rows, "v") for engine in self.engines])
        found = [engine.best_of_part(question, user).answer for engine in self.engines]
        return merged([told(answer.items, answer.scores) for answer in found], question.k)


def told(rows, scores, version="v", milliseconds=1.0) -> Best:
    pairs = zip(rows, scores, strict=True)
    items = [
        RecommendedItem(item_id=IDS[row], title="", score=float(score), rank=rank)
        for rank, (row, score) in enumerate(pairs, 1)
    ]
    served = Served(model=version, variant="any", backend="none", milliseconds={"total": milliseconds})
    return Best([int(row) for row in rows], RecommendAnswer(items=items, served=served))


def dealt(shards: int) -> list[np.ndarray]:
    return [Part(number, shards).rows(IDS) for number in range(shards)]


def whole(form: RequestForm, candidates: int = ITEMS) -> Engine:
    return Engine(Rung("any", form), BACKEND, candidates=candidates, item_reader=reader(ITEMS))


def assert_alike(got: RecommendAnswer, engine: Engine, question: Question) -> None:
    expected = find(engine, question).answer
    assert [item.item_id for item in got.items] == [IDS[row] for row in expected.items]
    np.testing.assert_allclose([item.score for item in got.items], expected.scores, atol=1e-4)
    assert [item.rank for item in got.items] == list(range(1, len(expected.items) + 1))


HISTORIES = [np.array([3, 9, 3, 40]), NOBODY, np.arange(5, 60, 2), np.array([88])]
QUESTIONS = [
    *(Question(history, None, None, 7) for history in HISTORIES),
    Question(HISTORIES[2], None, None, 7, exclude_seen=False),
    Question(HISTORIES[0], None, None, 60),
    Question(HISTORIES[0], None, None, 1000),
    Question(HISTORIES[0], None, None, 9, allow=RowSet.of(np.arange(30), ITEMS)),
    Question(HISTORIES[0], None, None, 9, allow=RowSet.of(np.array([4, 3]), ITEMS)),
    Question(HISTORIES[0], None, None, 9, deny=np.arange(0, 80)),
    Question(HISTORIES[0], None, None, 9, exclude_seen=False, deny=np.arange(0, 80)),
    Question(HISTORIES[0], "told", None, 7),
    Question(HISTORIES[0], None, "asked", 7),
    Question(NOBODY, None, "asked", 7),
]


@pytest.mark.parametrize("kind", ["full", "int8", "no head", "popularity"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_parts_answer_as_one_engine_of_all_items(kind, shards):
    form = make_form(kind)
    parts, engine = Parts(form, dealt(shards)), whole(form)
    for question in QUESTIONS:
        if kind == "popularity" and question.text:
            continue  # a rung without views reads none; its engine here has a reader all the same
        assert_alike(parts.answer(question), engine, question)


@pytest.mark.parametrize("kind", ["full", "no head", "popularity"])
def test_a_part_without_items_adds_nothing(kind):
    form = make_form(kind)
    parts, engine = Parts(form, [np.arange(ITEMS), NOBODY]), whole(form)
    for question in QUESTIONS[:8]:
        assert_alike(parts.answer(question), engine, question)


@pytest.mark.parametrize("shards", [2, 3])
def test_equal_scores_come_in_the_order_of_one_engine(shards):
    form = make_form("no head")
    form.target_ID[10:50] = form.target_ID[10]
    form.bias_I[10:50] = 50.0
    question = Question(np.array([3]), None, None, 12)
    got = Parts(form, dealt(shards)).answer(question)
    assert [item.item_id for item in got.items] == IDS[10:22]
    assert_alike(got, whole(form), question)


def test_with_a_head_that_ranks_few_no_place_is_worse_than_one_engines():
    form = make_form("full")
    parts, engine = Parts(form, dealt(3), candidates=8), whole(form, candidates=8)
    for question in QUESTIONS[:4]:
        got, expected = parts.answer(question), find(engine, question).answer
        assert (np.array([item.score for item in got.items]) >= expected.scores - 1e-4).all()


def test_every_item_is_dealt_to_one_part_and_parts_are_alike_in_size():
    for shards in (1, 2, 3, 7):
        parts = dealt(shards)
        assert np.sort(np.concatenate(parts)).tolist() == list(range(ITEMS))
        assert all((np.diff(rows) > 0).all() for rows in parts)
    assert part_of("i7", 3) == next(number for number, rows in enumerate(dealt(3)) if 7 in rows)
    many = [f"item-{row}" for row in range(10_000)]
    sizes = [len(Part(number, 4).rows(many)) for number in range(4)]
    assert max(sizes) < 1.1 * min(sizes)


def test_an_item_that_goes_is_found_no_more_and_still_met():
    form = make_form("no head")
    parts, engine = Parts(form, dealt(2)), whole(form)
    gone = find(engine, QUESTIONS[0]).answer.items[:1]
    engine.index.remove(gone)
    parts.engines[part_of(IDS[gone[0]], 2)].index.remove(gone)
    for history in (HISTORIES[0], gone):
        question = Question(history, None, None, 7)
        assert_alike(parts.answer(question), engine, question)


def test_the_answer_is_as_slow_as_its_slowest_part():
    parts = [told([1], [2.0], milliseconds=3.0), told([2], [3.0], milliseconds=5.0), told([], [])]
    answer = merged(parts, 5)
    assert [item.item_id for item in answer.items] == ["i2", "i1"]
    assert answer.served.milliseconds == {"total": 5.0}


def test_parts_of_different_bundles_are_not_joined():
    users = [Gathered("a", np.zeros(2, np.float32), 0), Gathered("b", np.zeros(2, np.float32), 0)]
    with pytest.raises(StoreUnavailableError, match="different bundles, a and b"):
        together(users)
    with pytest.raises(StoreUnavailableError, match="different bundles"):
        merged([told([1], [2.0]), told([2], [2.0], version="w")], 1)


def test_what_makes_no_sense_is_refused():
    engine = Parts(make_form("full"), dealt(2)).engines[0]
    with pytest.raises(ValueError, match="do not fit 90 items"):
        engine.gathered(np.array([ITEMS]), "v")
