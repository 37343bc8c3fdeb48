"""The engine against a full scan of the form."""

import numpy as np
import pytest

from lanner.artifact.ladder import Rung
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.models.request_form import Int8Rows, RequestForm, RequestHead, take
from lanner.serving.engine import Engine
from lanner.serving.profile import histories_of, machine_ceilings, profile
from lanner.vocabulary import ConfigError

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
        Engine(Rung("any", make_form())).answer([0], text="anything")


def test_no_candidates_are_refused():
    with pytest.raises(ConfigError, match="candidates"):
        Engine(Rung("any", make_form()), candidates=0)


def test_a_profile_has_every_stage_and_a_bound():
    engine = Engine(Rung("any", make_form()))
    times = profile(engine, [np.array([1, 2]), np.array([3])] * 5, None)
    assert [one.stage for one in times] == ["gather", "retrieve", "rank"]
    ceilings = machine_ceilings(repetitions=1)
    assert all(0 < one.p50_ms <= one.p99_ms and one.bound_ms(ceilings) > 0 for one in times)


def test_histories_are_spread_over_their_lengths():
    lists = Ragged.from_lists([[0] * length for length in (0, 1, 2, 3, 4, 5)])
    assert sorted(len(one) for one in histories_of(lists, 3)) == [1, 3, 5]
