"""What the benchmark derives from a simulation and from measured latencies."""

import numpy as np
import pytest

pytest.importorskip("psutil", reason="the extra 'bench' is not installed")

from benchmarks._serving_simulator import Missing, predicted, summary

NOTHING = np.empty(0)
SIMULATED_MS = np.linspace(1, 5, 101)


def test_what_is_missing_at_one_load_is_added_at_another():
    missing = Missing.of(SIMULATED_MS + 2, SIMULATED_MS)
    assert predicted(2 * SIMULATED_MS, missing, 10) == pytest.approx(
        {"p50_ms": 2 * 3 + 2, "p99_ms": 2 * 4.96 + 2, "goodput_per_s": 10.1}
    )


def test_what_is_missing_is_taken_in_between_the_loads_to_both_sides():
    known = [Missing(np.full(1001, number), number) for number in (1.0, 2.0, 4.0, 8.0)]
    assert Missing.between(0.3, known).ms == pytest.approx(np.full(1001, 1.5))
    assert Missing.between(0.9, known).least_ms == pytest.approx(6)
    assert Missing.between(0.45, known).least_ms == pytest.approx(2)


def test_no_answer_is_predicted_to_be_quicker_than_any_was():
    missing = Missing.of(np.full(101, 0.5), 10 * SIMULATED_MS)
    assert predicted(SIMULATED_MS, missing, 1)["p50_ms"] == 0.5


def test_where_nothing_is_answered_no_latency_is_predicted():
    assert predicted(NOTHING, Missing.of(SIMULATED_MS, SIMULATED_MS), 1) == {
        "p50_ms": None,
        "p99_ms": None,
        "goodput_per_s": 0,
    }


@pytest.mark.parametrize(("measured", "simulated"), [(NOTHING, SIMULATED_MS), (SIMULATED_MS, NOTHING)])
def test_what_nobody_knows_is_not_added(measured, simulated):
    assert predicted(SIMULATED_MS, Missing.of(measured, simulated), 1)["p50_ms"] == pytest.approx(3)


def load(predicted_p99, predicted_goodput, measured_p99, measured_goodput):
    return {
        "predicted": {"p99_ms": predicted_p99, "goodput_per_s": predicted_goodput},
        "measured": {"p99_ms": measured_p99, "goodput_per_s": measured_goodput},
    }


def test_the_error_is_the_largest_of_what_can_be_compared():
    assert summary({"loads": [load(11, 98, 10, 100), load(None, 0, 10, 100)]}) == {"simulator_error": 1}
    assert summary({"loads": [load(11, 98, 10, 100), load(1, 9, None, 0)]}) == pytest.approx({"simulator_error": 0.1})
    assert summary({"loads": [load(None, 0, None, 0)]}) == {}
