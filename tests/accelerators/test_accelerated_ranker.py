"""The ranker with an accelerator: bit-identical to the contract, with fallback for unsupported requests."""

from dataclasses import replace

import numpy as np
import pytest
from small_models import histories, model_of

pytest.importorskip("amaranth", reason="cycles are those of the hardware: pip install 'lanner[fpga]'")

from lanner.accelerators.backend import open_backend
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.reference import answer
from lanner.data.interactions import UserBatch
from lanner.errors import AcceleratorError
from lanner.inference.eligibility import RowMask
from lanner.inference.ranker import Query, Ranker, queries_of
from lanner.inference.scoring_model import ItemRows

ITEMS, K = 200, 10


def accelerated(model, users):
    backend = open_backend("emulator", Contract.of(model, users), 75.0)
    return Ranker(model, accelerator=backend), backend


@pytest.mark.parametrize("kind", [{}, {"sparse": True}, {"recency": 0.0}], ids=["vectors", "sparse", "equal"])
def test_lists_are_the_contracts_bit_for_bit(kind):
    model, users = model_of(ITEMS, 16, **kind), histories(60, ITEMS, 40).take(np.arange(60))
    users = UserBatch(users.history)  # equal weights: shares of both ways are the same floats
    ranker, backend = accelerated(model, users)
    contract = backend.contract
    if not model.recency:
        requests = requests_of(contract, model, users, K)
    else:
        known = [ranker._user(query) for query in queries_of(users, K)]
        requests = [contract.request(one.rows, one.shares, users.history[n], K) for n, one in enumerate(known)]
    for found, request in zip(ranker.rank(queries_of(users, K)), requests, strict=True):
        wanted = answer(contract, request)
        assert found.items.tolist() == wanted.rows.tolist()
        assert found.scores.tolist() == (wanted.scores * contract.units.score).astype(np.float32).tolist()
        assert not found.fallback
    assert backend.figures()["answered"] == 60


MODEL, USERS = model_of(ITEMS, 16, sparse=True), histories(60, ITEMS, 40)
PLAIN = Query(np.array([3, 50, 7]), seen=np.array([3, 50, 7]))


@pytest.mark.parametrize(
    "query",
    [
        replace(PLAIN, k=11),
        replace(PLAIN, diversity=0.5),
        replace(PLAIN, allow=RowMask.of(np.arange(100), ITEMS)),
        replace(PLAIN, deny=np.array([4])),
        Query(),
    ],
    ids=["long list", "diversity", "allow", "deny", "nobody"],
)
def test_what_is_not_covered_is_answered_as_before(query):
    ranker, backend = accelerated(MODEL, USERS)
    mixed = ranker.rank([query, PLAIN, query])
    assert [one.accelerated for one in mixed] == [False, True, False]
    plain = Ranker(MODEL).rank([query])[0]
    for found in (mixed[0], mixed[2]):
        assert found.items.tolist() == plain.items.tolist()
        assert found.scores.tolist() == pytest.approx(plain.scores.tolist())
    assert backend.figures()["answered"] == 1


def test_profiles_friends_and_texts_are_answered_as_before():
    features = {"profile_FD": np.ones((4, 16), np.float32), "text_FD": np.ones((4, 16), np.float32)}
    model = replace(MODEL, friends_UD=np.ones((5, 16), np.float32), **features)
    ranker, backend = accelerated(model, USERS)
    read = np.ones(4, np.float32)
    ranker.rank([replace(PLAIN, profile_features=read), replace(PLAIN, text_features=read)])
    ranker.rank([replace(PLAIN, friends=np.array([1]))])
    assert backend.figures()["answered"] == 0
    ranker.rank([replace(PLAIN, profile="unread")])
    assert backend.figures()["answered"] == 1


def test_hidden_items_are_left_out_and_later_ones_answered_as_before(monkeypatch):
    ranker, backend = accelerated(MODEL, USERS)
    best = ranker.rank([PLAIN])[0]
    ranker.available.hide(best.items[:1])
    without = ranker.rank([PLAIN])[0]
    assert without.items[:9].tolist() == best.items[1:].tolist()
    assert without.accelerated
    monkeypatch.setattr("lanner.inference.ranker._MAX_HIDDEN", 0)
    assert not ranker.rank([PLAIN])[0].accelerated
    ranker.available.show(best.items[:1])
    assert ranker.rank([PLAIN])[0].items.tolist() == best.items.tolist()
    assert backend.figures()["answered"] == 3
    row = np.ones((1, 16), np.float32)
    ranker.add(ItemRows(row, row, np.array([1e6], np.float32)))
    ranker.available.grow(ITEMS + 1)
    ranker.available.show(np.array([ITEMS]))
    assert ranker.rank([PLAIN])[0].items[0] == ITEMS
    assert backend.figures()["answered"] == 3


def test_reasons_are_those_of_the_items_and_fewer_items_than_asked_are_fewer():
    ranker, _ = accelerated(MODEL, USERS)
    found = ranker.rank([replace(PLAIN, explain=True)])[0]
    assert [one.item for one in found.explanations] == found.items.tolist()
    for explained, score in zip(found.explanations, found.scores, strict=True):
        assert explained.score == pytest.approx(score, abs=2e-2 * float(abs(found.scores[0])))
    rest = np.arange(ITEMS)[4:]
    assert set(ranker.rank([Query(np.array([5]), seen=rest)])[0].items) == {0, 1, 2, 3}


def test_where_it_fails_the_processor_answers_and_it_is_counted(monkeypatch):
    ranker, backend = accelerated(MODEL, USERS)

    def failing(requests):
        raise AcceleratorError("gone")

    monkeypatch.setattr(backend._accelerator, "answer", failing)
    assert ranker.rank([PLAIN])[0].items.tolist() == Ranker(MODEL).rank([PLAIN])[0].items.tolist()
    assert (backend.figures()["answered"], backend.figures()["failed"]) == (0, 1)
