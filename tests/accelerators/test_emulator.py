"""The emulator against the reference, and its run time for a catalogue of the bundled dataset's size."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from small_models import extreme_contract, extreme_requests, histories, model_of

pytest.importorskip("amaranth", reason="cycles are those of the hardware: pip install 'lanner[fpga]'")

from lanner.accelerators import routed
from lanner.accelerators.build import emulated, fitting_device
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.reference import answer

K = 10
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "fpga.json"


def assert_exact(contract, requests):
    found = Emulator(contract, emulated(contract, K)).answer(requests)
    for timed, request in zip(found, requests, strict=True):
        wanted = answer(contract, request)
        assert timed.answer.rows.tolist() == wanted.rows.tolist()
        assert timed.answer.scores.tolist() == wanted.scores.tolist()


@pytest.mark.parametrize("shift", [0, 18, 47])
def test_corners_are_those_of_the_reference(shift):
    contract = extreme_contract(60, 16, shift)
    assert_exact(contract, extreme_requests(contract, K))


@pytest.mark.parametrize(
    ("dimensions", "kind"),
    [(32, {}), (32, {"tied": True}), (32, {"sparse": True}), (0, {"sparse": True})],
    ids=["two tables", "tied", "item to item", "item to item alone"],
)
def test_lists_are_those_of_the_reference(dimensions, kind):
    model, users = model_of(300, dimensions, **kind), histories(100, 300, 60)
    contract = Contract.of(model, users)
    assert_exact(contract, requests_of(contract, model, users, K))
    assert_exact(contract, requests_of(contract, model, users, 1))


def test_the_clock_is_the_one_that_was_routed():
    recorded = json.loads(RESULTS.read_text())["results"]["routed"]
    assert {f"ecp5-{name}": round(recorded[name]["mhz_median"]) for name in ("25f", "85f")} == routed.MHZ
    assert recorded["25f"]["lanes"] == routed.LANES


def test_nothing_asked_is_nothing_answered():
    contract = extreme_contract(60, 16)
    assert Emulator(contract, emulated(contract, K)).answer([]) == []


def test_cycles_are_the_models():
    model, users = model_of(120, 32), histories(9, 120, 30)
    contract = Contract.of(model, users)
    sizes, requests = emulated(contract, K), requests_of(contract, model, users, K)
    assert sizes.lanes == 16
    found = Emulator(contract, sizes).answer(requests)
    assert [one.cycles for one in found] == [request_cycles(sizes, len(one.rows), 120, K) for one in requests]


def test_a_catalogue_of_ten_thousand_items_takes_a_few_milliseconds():
    model, users = model_of(9742, 64), histories(20, 9742, 165)
    contract = Contract.of(model, users)
    emulator, requests = Emulator(contract, emulated(contract, K)), requests_of(contract, model, users, K)
    times = []
    for request in requests:
        begun = time.perf_counter()
        emulator.answer([request])
        times.append(time.perf_counter() - begun)
    assert np.median(times) < 0.02  # a third of a millisecond on an idle core; this one may be shared


def test_the_smallest_device_that_holds_the_tables_is_named():
    found = [fitting_device(extreme_contract(items, 64, 18), K) for items in (60, 4000, 60_000)]
    assert found == ["ecp5-25f", "ecp5-85f", None]
