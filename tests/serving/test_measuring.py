"""How long batches take, as a server that starts finds out."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from lanner.data.ragged import Ragged
from lanner.serving import measuring
from lanner.serving.measuring import BATCH_SIZES, measure_profile, typical_and_slow

MODEL = SimpleNamespace(
    dataset=SimpleNamespace(histories=Ragged.from_lists([[0, 1]])), engines={("here", "full"): None}
)


def batches(monkeypatch, seconds):
    """How many of each size were worked on, where each takes so long."""
    worked = []
    monkeypatch.setattr(measuring, "work_on", lambda engine, batch: worked.append(len(batch)) or time.sleep(seconds))
    profile = measure_profile(MODEL, 50)
    assert profile.curve("here", "full").p50_s(1) >= seconds
    return [worked.count(size) for size in BATCH_SIZES]


def test_what_takes_long_is_timed_a_few_times(monkeypatch):
    assert batches(monkeypatch, 0.005) == [8, 8, 8]


def test_what_is_quick_is_timed_often(monkeypatch):
    assert batches(monkeypatch, 0) == [50, 50, 50]


def test_a_moment_in_which_the_machine_stood_still_is_no_time_of_a_batch():
    milliseconds = np.linspace(1, 2, 40)
    p50, p99 = typical_and_slow(np.append(milliseconds, 6_000))
    assert p99 == pytest.approx(np.percentile(milliseconds, 99))
    assert p50 == pytest.approx(1.51, abs=0.01)


def test_what_varies_is_slow_now_and_then():
    assert typical_and_slow(np.array([1.0] * 90 + [7.0] * 10)) == (1, 7)
