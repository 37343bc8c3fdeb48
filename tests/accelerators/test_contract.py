"""The integer contract: valid bounds, the same lists as in float, unsupported models, and files."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from small_models import extreme_contract, extreme_requests, histories, model_of

import lanner
from lanner.accelerators.contract import (
    MAX_HISTORY,
    MAX_SHIFT,
    NO_ROW,
    NO_SCORE,
    Contract,
    FixedPoint,
    requests_of,
)
from lanner.accelerators.reference import (
    LARGEST_SCORE,
    answer,
    coefficients,
    rounded,
    scores,
    sparse_sums,
    user_vector,
)
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError
from lanner.evaluation.protocol import evaluate
from lanner.inference.ranker import RankedScorer
from lanner.inference.scoring_model import FoldIn, ScoringModel, SparseRows
from lanner.inference.tables import Int8Rows, take

K = 10


def float_form(model, contract):
    """The model with the same codes as the contract: those of the item-to-item rows are INT8 as well."""
    sparse = contract.sparse
    if sparse is None:
        return model
    values = sparse.codes * np.repeat(sparse.scale, np.diff(sparse.indptr)) * contract.units.sparse
    return replace(model, item_to_item=SparseRows(sparse.indptr, sparse.items, values.astype(np.float32)))


def lists_of(model, users, requests):
    found = []
    for user, request in enumerate(requests):
        given = model.score(users.take(np.array([user])))[0]
        given[request.seen] = -np.inf
        found.append(np.lexsort((np.arange(len(given)), -given))[: request.k])
    return found


def overlap(left, right) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(left, right, strict=True)]))


@pytest.mark.parametrize("kind", [{}, {"tied": True}, {"sparse": True}], ids=["two tables", "tied", "item to item"])
def test_lists_are_those_of_the_float_form(kind):
    model, users = model_of(400, 32, **kind), histories(200, 400, 60)
    users = users.take(np.arange(200))  # all but the one without a history, whom popularity answers
    contract = Contract.of(model, users)
    assert contract.tied == kind.get("tied", False)
    requests = requests_of(contract, model, users, K)
    answers = [answer(contract, request).rows for request in requests]
    assert overlap(answers, lists_of(float_form(model, contract), users, requests)) >= 0.998
    # The scores themselves, in units of the largest.
    integers = np.array([scores(contract, request) for request in requests]) * contract.units.score
    floats = float_form(model, contract).score(users)
    assert np.abs(integers - floats).max() < 2e-3 * np.abs(floats).max()


def test_item_to_item_rows_need_no_vectors():
    model, users = model_of(90, 0, sparse=True), histories(40, 90, 20).take(np.arange(40))
    contract = Contract.of(model, users)
    requests = requests_of(contract, model, users, K)
    assert contract.dimensions == 0
    answers = [answer(contract, request).rows for request in requests]
    assert overlap(answers, lists_of(float_form(model, contract), users, requests)) >= 0.99


def test_no_sum_leaves_32_bits_for_the_longest_history():
    contract = extreme_contract(MAX_HISTORY, 2)
    contract = replace(
        contract, source=np.full_like(contract.source, -128), source_scale=np.full(4096, 4095, np.uint16)
    )
    request = contract.request(np.arange(MAX_HISTORY), np.ones(MAX_HISTORY), np.empty(0, np.int64))
    given = coefficients(contract.source_scale, request)
    assert given.max() < 2**12
    assert np.abs(given @ contract.source.astype(np.int64)).max() < 2**31
    assert 128 * 4095 * MAX_HISTORY < 2**31 <= 128 * 4096 * MAX_HISTORY


@pytest.mark.parametrize("shift", [0, 18, MAX_SHIFT])
def test_every_corner_stays_within_its_width(shift):
    contract = extreme_contract(60, 16, shift)
    for request in extreme_requests(contract, K):
        found = answer(contract, request)
        eligible = 60 - len(request.seen)
        assert np.abs(user_vector(contract, request)).max() < 2**15
        assert (found.rows[eligible:] == NO_ROW).all()
        assert (found.scores[eligible:] == NO_SCORE).all()
        listed = found.rows[: min(eligible, request.k)]
        assert not set(listed) & set(request.seen)
        order = list(zip(-found.scores[: len(listed)], listed, strict=True))
        assert order == sorted(order)
        assert np.abs(found.scores[: len(listed)]).max(initial=0) <= LARGEST_SCORE


def test_an_empty_history_scores_biases():
    contract = extreme_contract(60, 16)
    request = contract.request(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    assert (scores(contract, request) == contract.bias).all()
    assert not sparse_sums(contract, request).any()


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_half_rounds_up(shift):
    values = np.arange(-100, 100)
    exact = [(Fraction(int(value), 2**shift) + Fraction(1, 2)).__floor__() if shift else int(value) for value in values]
    assert rounded(values, shift).tolist() == exact


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.3, 1.0, 65535.4, 2.0**-40])
def test_a_scale_is_the_nearest_multiplier_and_shift(value):
    found = FixedPoint.of(value)
    assert 0 <= found.multiplier < 2**16
    assert 0 <= found.shift <= MAX_SHIFT
    assert abs(found.multiplier / 2**found.shift - value) <= max(value * 2.0**-16, 2.0 ** -(MAX_SHIFT + 1))


def test_files_hold_the_contract_and_its_digest_tells_contracts_apart():
    model, users = model_of(50, 8, sparse=True), histories(20, 50, 9)
    contract = Contract.of(model, users)
    again = Contract.from_arrays(contract.arrays(), contract.facts)
    assert again.digest == contract.digest
    changed = contract.bias.copy()
    changed[7] += 1
    assert replace(contract, bias=changed).digest != contract.digest
    assert replace(contract, score_shift=contract.score_shift + 1).digest != contract.digest


def with_a_head(model):
    from lanner.inference.heads import Head

    draw = np.ones
    return replace(model, head=Head(draw((8, 4)), draw(4), draw((50, 4)), draw(4), kind="concat", num_views=1))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda model: replace(model, fold_in=FoldIn(np.eye(8, dtype=np.float32), 2.0)), "user solve"),
        (with_a_head, "has a head"),
        (lambda model: model.map_tables(take), "no INT8 tables"),
        (lambda model: replace(model, bias_I=model.bias_I * np.float32(1e18)), "exceed 32 bits"),
    ],
)
def test_what_has_no_integer_form_is_refused(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Contract.of(change(model_of(50, 8)), histories(5, 50, 9))


def test_a_history_longer_than_is_proven_is_no_request():
    contract = extreme_contract(5, 8)
    rows = np.zeros(MAX_HISTORY + 1, np.int64)
    with pytest.raises(ConfigError, match="4,097 entries exceeds the proven limit of 4,096"):
        contract.request(rows, np.ones(len(rows)), rows[:0])


def test_without_a_history_no_scale_can_be_fitted():
    with pytest.raises(ConfigError, match="no user with a history"):
        Contract.of(model_of(50, 8), UserBatch(Ragged.empty(3)))


@pytest.mark.parametrize(
    ("rows", "shares", "seen", "k", "complaint"),
    [
        (np.zeros(MAX_HISTORY + 1, np.int64), np.ones(MAX_HISTORY + 1), [], 1, "4,097 entries"),
        ([50], [1.0], [], 1, "outside a catalogue of 50"),
        ([3], [1.0], [-1], 1, "outside a catalogue of 50"),
        ([3], [1.0], [], 0, "k is 0"),
        ([3], [-1.0], [], 1, "not negative"),
        ([3], [np.nan], [], 1, "finite"),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(rows, shares, seen, k, complaint):
    contract = extreme_contract(50, 8)
    with pytest.raises(ConfigError, match=complaint):
        contract.request(np.asarray(rows), np.asarray(shares), np.asarray(seen, np.int64), k)


def test_an_item_without_vectors_takes_no_bits_from_the_others():
    """The scale of a row of zeros is 1, whatever the others'."""
    model, users = model_of(50, 8), histories(20, 50, 9)
    small = model.map_tables(lambda table: replace(table, scale=table.scale * np.float32(1e-3)))
    empty = small.map_tables(lambda table: Int8Rows.of(take(table) * (np.arange(50) != 7)[:, None]))
    contract = Contract.of(empty, users)
    assert contract.source_scale[7] == contract.target_scale[7] == 0
    assert contract.source_scale.max() == 2**12 - 1


def test_a_scale_beyond_16_bits_is_refused():
    with pytest.raises(ConfigError, match="below 65,536"):
        FixedPoint.of(65536.0)


def test_on_real_events_the_integers_cost_nothing():
    """Two tables of a factorisation of the bundled dataset: lists, and their quality on withheld events."""
    dataset = lanner.load_dataset("ml-latest-small")
    split = dataset.split("random", seed=3)
    events = split.train.interactions
    counts = np.bincount(events.item, minlength=len(dataset.items)).astype(np.float32)
    ones = np.ones(len(events), np.float32)
    matrix = csr_matrix((ones, (events.user, events.item)), shape=(len(dataset.users), len(dataset.items)))
    _, values, vectors = svds(matrix, 32, random_state=0)
    tables = [Int8Rows.of((vectors.T * by).astype(np.float32)) for by in (np.ones(32), values / values.max())]
    model = ScoringModel(*tables, 1e-6 * counts, counts, (32,))
    held_out = split.validation
    contract = Contract.of(model, held_out.users)
    assert not contract.tied

    class Integers:
        num_items = contract.num_items

        def score(self, users):
            raise NotImplementedError

        def rank(self, users, k, excluded, candidates):
            seen = replace(users, seen=excluded)
            return np.array([answer(contract, one).rows for one in requests_of(contract, model, seen, k)], np.int32)

    quality = {
        name: evaluate(scorer, held_out, ks=(10,), metrics=("ndcg",))["ndcg_at_10"]
        for name, scorer in (("integers", Integers()), ("floats", RankedScorer(model)))
    }
    assert quality["floats"] > 0.1
    assert quality["integers"] == pytest.approx(quality["floats"], rel=1e-3)
    integers, floats = (
        scorer.rank(held_out.users, K, held_out.excluded, None) for scorer in (Integers(), RankedScorer(model))
    )
    assert overlap(integers, floats) >= 0.999
