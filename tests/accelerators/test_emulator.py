"""The emulator against the reference, and its run time for a catalogue of the bundled dataset's size."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from small_models import extreme_contract, extreme_requests, histories, model_of

pytest.importorskip("amaranth", reason="cycles are those of the hardware: pip install 'lanner[fpga]'")

from lanner.accelerators import routed
from lanner.accelerators.build import clock_of, emulated, fitting_device, prediction, sizes_for
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.netlist import logic
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.reference import answer
from lanner.errors import ConfigError

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
    for name in ("25f", "85f"):
        of_device = (routed.LANES[f"ecp5-{name}"], routed.ROWS[f"ecp5-{name}"])
        assert (recorded[name]["lanes"], recorded[name]["rows"]) == of_device
        assert recorded[name]["commit"].startswith(routed.COMMIT[f"ecp5-{name}"])


@pytest.mark.parametrize("name", ["25f", "85f"])
def test_the_estimated_logic_is_that_of_the_routed_designs(name):
    used = json.loads(RESULTS.read_text())["results"]["routed"][name]["used"]
    rows = routed.ROWS[f"ecp5-{name}"]
    sizes = Parameters(routed.DIMENSIONS, routed.LANES[f"ecp5-{name}"], rows, rows, routed.K)
    assert logic(sizes) == (pytest.approx(used["TRELLIS_FF"], rel=0.1), pytest.approx(used["TRELLIS_COMB"], rel=0.1))


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


def test_a_prediction_names_the_device_whose_clock_it_takes():
    small, large, huge = (extreme_contract(items, 64, 18) for items in (60, 4000, 60_000))
    predicted = [prediction(emulated(one, K), fitting_device(one, K), clock_of(one, K)) for one in (small, large, huge)]
    clocks = routed.MHZ
    assert predicted == [
        f"predicted from cycles at the routed {clocks['ecp5-25f']:g} MHz of an ecp5-25f with 1,024 rows",
        f"predicted from cycles at the routed {clocks['ecp5-85f']:g} MHz of an ecp5-85f with 4,096 rows",
        f"predicted from cycles at {clocks['ecp5-25f']:g} MHz; the design fits no known device",
    ]
    assert [emulated(one, K).lanes for one in (small, large, huge)] == [16, 64, 16]
    longer = prediction(emulated(large, 11), "ecp5-85f", clocks["ecp5-85f"])
    assert longer == f"predicted from cycles at {clocks['ecp5-85f']:g} MHz on an ecp5-85f; this design was not routed"
    faster = prediction(emulated(small, K), "ecp5-25f", 200.0)
    assert faster.endswith(f"at 200 MHz on an ecp5-25f, which was routed at {clocks['ecp5-25f']:g} MHz")


@pytest.mark.parametrize(
    ("items", "dimensions", "k", "device", "complaint"),
    [
        (60, 64, 255, "ecp5-25f", "ecp5-25f has 24,288 registers, .* too few; ecp5-85f fits it"),
        (4000, 64, K, "ecp5-25f", "ecp5-25f has 56 memories of 18 kbit, .* too few; ecp5-85f fits it"),
        (60_000, 64, K, "ecp5-85f", r"ecp5-85f has 208 memories .*; it fits [\d,]+ items of 64 dimensions$"),
        (20_000, 64, K, "ecp5-85f", "it fits [\\d,]+ items of 64 dimensions or 20,000 items of 8 dimensions$"),
    ],
)
def test_what_does_not_fit_is_told_with_what_does(items, dimensions, k, device, complaint):
    contract = extreme_contract(items, dimensions, 18)
    with pytest.raises(ConfigError, match=complaint) as raised:
        sizes_for(contract, device, k)
    print(raised.value)
    assert "\n" not in str(raised.value)
    advised = re.search("fits ([\\d,]+) items", str(raised.value))
    if advised:
        most = int(advised[1].replace(",", ""))
        assert sizes_for(extreme_contract(most, dimensions, 18), device, k).items == most
        with pytest.raises(ConfigError):
            sizes_for(extreme_contract(most + 1, dimensions, 18), device, k)
