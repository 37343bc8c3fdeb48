"""The engine against a full scan of the form."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lanner.artifacts.ladder import Rung
from lanner.compression.steps import popularity_form, quantised
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError
from lanner.models.request_form import Int8Rows, ItemRows, RequestForm, RequestHead, take
from lanner.models.request_items import ItemReader
from lanner.models.text_neighbours import TextNeighbours
from lanner.serving.engine import Engine, add_items, remove_items
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.profile import STAGES, histories_of, machine_ceilings, profile
from lanner.serving.retrieval import build_index

ITEMS, WIDTH, HIDDEN = 80, 12, 6


def make_form(with_head: bool = True) -> RequestForm:
    random = np.random.default_rng(2)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)
    head = RequestHead(draw(WIDTH, HIDDEN), draw(HIDDEN), draw(ITEMS, HIDDEN), draw(HIDDEN)) if with_head else None
    return RequestForm(draw(ITEMS, WIDTH), draw(ITEMS, WIDTH), draw(ITEMS), (5, 7), head)


def full_scan(form: RequestForm, history: list[int]) -> np.ndarray:
    scores = form.score(form.users(UserBatch(Ragged.from_lists([history]))))[0]
    scores[history] = -np.inf
    return scores


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("int8", [True, False])
def test_it_answers_as_a_full_scan_does(with_head, int8):
    form = make_form(with_head)
    form = form.map_tables(lambda table: Int8Rows.of(take(table))) if int8 else form
    answer = Engine(Rung("any", form), candidates=ITEMS).answer([3, 9, 3, 40], k=7)
    scores = full_scan(form, [3, 9, 40])
    assert answer.items.tolist() == np.argsort(-scores)[:7].tolist()
    assert np.allclose(answer.scores, np.sort(scores)[::-1][:7], atol=1e-3)


def test_the_head_ranks_only_what_was_retrieved():
    form = make_form()
    few = Engine(Rung("any", form), candidates=5).answer([1], k=5)
    users = form.users(UserBatch(Ragged.from_lists([[1]])))
    by_product = (users @ form.target_ID.T + form.bias_I)[0]
    by_product[1] = -np.inf
    assert set(few.items.tolist()) == set(np.argsort(-by_product)[:5].tolist())


def test_a_user_without_history_is_answered():
    form = make_form(with_head=False)
    assert Engine(Rung("any", form)).answer([], k=3).items.tolist() == np.argsort(-form.bias_I)[:3].tolist()


def test_filters_hold_and_cost_no_results():
    engine = Engine(Rung("any", make_form()), candidates=10)
    allowed = engine.answer([0], k=5, allow=np.array([0, 4, 5, 6, 7, 8, 9]))
    assert len(allowed.items) == 5
    assert set(allowed.items.tolist()) <= {4, 5, 6, 7, 8, 9}
    best = engine.answer([0], k=20).items
    denied = engine.answer([0], k=20, deny=best)
    assert len(denied.items) == 20
    assert not set(denied.items.tolist()) & set(best.tolist())


def test_a_filter_that_excludes_everything_leaves_an_empty_answer():
    engine = Engine(Rung("any", make_form()))
    assert engine.answer([0], k=5, allow=np.array([0])).items.tolist() == []


def test_k_beyond_the_catalogue_gives_all_of_it():
    answer = Engine(Rung("any", make_form())).answer([0, 1], k=1000)
    assert sorted(answer.items.tolist()) == list(range(2, ITEMS))


def test_seen_items_come_back_where_they_may():
    engine = Engine(Rung("any", make_form()), candidates=ITEMS)
    assert 0 in engine.answer([0], k=ITEMS, exclude_seen=False).items


@pytest.mark.parametrize(("history", "k"), [([ITEMS], 3), ([-1], 3), ([0], 0)])
def test_what_makes_no_sense_is_refused(history, k):
    with pytest.raises(ValueError, match=r"do not fit|at least 1"):
        Engine(Rung("any", make_form())).answer(history, k=k)


def test_a_text_without_a_reader_is_refused():
    with pytest.raises(ConfigError, match="reads no profile texts"):
        Engine(Rung("any", make_form())).answer([0], profile="anything")
    with pytest.raises(ConfigError, match="reads no texts"):
        Engine(Rung("any", make_form())).answer([0], text="anything")


def test_no_candidates_are_refused():
    with pytest.raises(ConfigError, match="candidates"):
        Engine(Rung("any", make_form()), candidates=0)


def test_an_index_that_is_given_is_the_one_that_is_asked_though_it_is_empty():
    index = build_index(np.ones((ITEMS, WIDTH + 1)))
    index.remove(np.arange(ITEMS))
    engine = Engine(Rung("any", make_form(with_head=False)), index=index)
    assert engine.index is index
    assert engine.answer([0], k=3).items.tolist() == []


def test_a_profile_has_every_stage_and_a_bound():
    engine = Engine(Rung("any", make_form()))
    times = profile(engine, [np.array([1, 2]), np.array([3])] * 5, None)
    assert tuple(one.stage for one in times) == STAGES
    ceilings = machine_ceilings(repetitions=1)
    assert all(0 < one.p50_ms <= one.p99_ms for one in times)
    assert all(one.bound_ms(ceilings) > 0 for one in times if one.stage != "encode")


def test_histories_are_spread_over_their_lengths():
    lists = Ragged.from_lists([[0] * length for length in (0, 1, 2, 3, 4, 5)])
    assert sorted(len(one) for one in histories_of(lists, 3)) == [1, 3, 5]


@pytest.mark.parametrize("with_head", [True, False])
def test_the_parts_of_a_score_add_up_to_it(with_head):
    engine = Engine(Rung("any", make_form(with_head)), candidates=ITEMS)
    answer = engine.answer([4, 7, 9], k=5)
    parts = engine.explain(engine.ask([9, 4, 7]), answer.items)
    assert parts.history_NM.shape == (5, 3)
    total = parts.history_NM.sum(axis=1) + parts.told_N + parts.popularity_N + parts.head_N
    assert np.allclose(total, answer.scores, atol=1e-4)
    assert (parts.head_N != 0).all() == with_head


def new_rows(number: int, width: int = WIDTH) -> ItemRows:
    draw = lambda *shape: np.random.default_rng(9).normal(size=shape).astype(np.float32)
    return ItemRows(draw(number, width), draw(number, width), draw(number), draw(number, HIDDEN))


@pytest.mark.parametrize("int8", [True, False])
def test_items_that_come_later_are_found_gathered_and_ranked_as_if_they_had_been_there(int8):
    form = make_form()
    later = new_rows(300)
    whole = RequestForm(
        np.vstack([form.source_ID, later.source_ND]),
        np.vstack([form.target_ID, later.target_ND]),
        np.concatenate([form.bias_I, later.bias_N]),
        form.view_sizes,
        replace(form.head, item_IH=np.vstack([form.head.item_IH, later.half_NH])),
    )
    engine = Engine(Rung("any", quantised(form) if int8 else form), candidates=1000)
    for first in (0, 1, 200):
        rows = slice(first, {0: 1, 1: 200, 200: 300}[first])
        part = ItemRows(later.source_ND[rows], later.target_ND[rows], later.bias_N[rows], later.half_NH[rows])
        assert add_items([engine], part).tolist() == list(range(ITEMS + rows.start, ITEMS + rows.stop))
    history = [3, ITEMS + 2, 9, ITEMS + 250]
    wanted, got = Engine(Rung("any", whole), candidates=1000).answer(history), engine.answer(history)
    assert np.allclose(got.scores, wanted.scores, atol=0.2 if int8 else 1e-4)
    assert int8 or got.items.tolist() == wanted.items.tolist()
    remove_items([engine], got.items[:1])
    assert engine.answer(history).items[0] == got.items[1]
    assert len(engine.answer(got.items.tolist()).items) == 10


def test_a_diverse_list_holds_fewer_twins():
    form = make_form(with_head=False)
    form.target_ID[:20] = form.target_ID[0]
    form.bias_I[:20] = 9.0
    engine = Engine(Rung("any", form))
    plain, diverse = engine.answer([50], k=6), engine.answer([50], k=6, diversity=0.7)
    assert set(plain.items.tolist()) <= set(range(20))
    assert len(set(diverse.items.tolist()) & set(range(20))) == 1
    assert diverse.items[0] == plain.items[0]


def test_a_text_weighs_as_one_more_item_that_reads_so():
    form = make_form(with_head=False)
    reader = ItemReader(
        TextNeighbours.of(Int8Rows.of(np.eye(ITEMS, 4, dtype=np.float32))),
        np.ones(ITEMS, bool),
        1,
        (5, 7),
        np.ones((2, 2), np.float32),
        *(np.random.default_rng(3).normal(size=(4, 7)).astype(np.float32) for _ in range(2)),
        np.zeros(4, np.float32),
        0.0,
        np.zeros(ITEMS, np.float32),
        None,
        3,
    )
    told = np.array([1.0, 2.0, 0.5, 0.0], np.float32)
    backend = SimpleNamespace(reader=object(), features=lambda texts: np.stack([told] * len(texts)))
    engine = Engine(Rung("any", form), backend, item_reader=reader)
    rows = reader.read(form, told[None], [None])
    add_items([engine], rows)
    as_item = engine.answer([4, 7, ITEMS], k=5)
    as_text = engine.answer([4, 7], k=5, text="anything", deny=np.array([ITEMS]))
    language_only = form.source_ID[[4, 7]].sum(axis=0) / 3
    language_only[5:] += told @ reader.source_FD / 3
    wanted = np.argsort(-(form.target_ID @ language_only + form.bias_I))
    assert as_text.items.tolist() == [row for row in wanted if row not in (4, 7)][:5]
    assert not np.allclose(as_item.scores, as_text.scores)


def test_the_same_list_for_all_is_read_off_and_follows_every_filter_and_change():
    form = popularity_form(make_form(), np.arange(ITEMS)[::-1])
    engine = Engine(Rung("popularity", form))
    assert isinstance(engine.index, FixedOrder)
    assert engine.answer([0, 3], k=4).items.tolist() == [1, 2, 4, 5]
    assert engine.answer([0], k=9, allow=np.array([7, 0, 70])).items.tolist() == [7, 70]
    assert engine.answer([0], k=2, deny=np.array([1])).items.tolist() == [2, 3]
    assert np.allclose(engine.answer([], k=2).scores, np.log1p([79, 78]))
    add_items([engine], new_rows(1))
    remove_items([engine], np.array([0]))
    everything = engine.answer([], k=1000).items.tolist()
    assert everything == [*range(1, ITEMS), ITEMS]
    parts = engine.explain(engine.ask([5]), np.array([1]))
    assert np.allclose(parts.scores, np.log1p(78))
