"""How long batches take, as a server that starts finds out."""

import time

import numpy as np
import pytest

from lanner.serving import measuring
from lanner.serving.measuring import BATCH_SIZES, measure_profile, typical_and_slow

HISTORIES = [np.array([0, 1])]


def batches(monkeypatch, seconds, enough_s=0.02):
    """How many of each size were worked on, where each takes so long and so much time is enough for a size."""
    worked = []
    answer = lambda engine, histories, ks, exclude_seen: worked.append(len(histories)) or time.sleep(seconds)
    monkeypatch.setattr(measuring, "answer_together", answer)
    monkeypatch.setattr(measuring, "_ENOUGH_S", enough_s)
    profile = measure_profile({("here", "full"): None}, HISTORIES)
    assert profile.curve("here", "full").p50_s(1) >= seconds
    return [worked.count(size) for size in BATCH_SIZES]


def test_what_takes_long_is_timed_a_few_times(monkeypatch):
    assert batches(monkeypatch, 0.005) == [8, 8, 8]


def test_what_is_quick_is_timed_often(monkeypatch):
    assert min(batches(monkeypatch, 0, enough_s=0.5)) > 20


def test_each_batch_has_rested(monkeypatch):
    rests = []
    monkeypatch.setattr(measuring.time, "sleep", rests.append)
    batches(monkeypatch, 0, enough_s=0)
    assert rests.count(measuring._REST_S) == 24


def test_a_moment_in_which_the_machine_stood_still_is_no_time_of_a_batch():
    milliseconds = np.linspace(1, 2, 40)
    p50, p99 = typical_and_slow(np.append(milliseconds, 6_000))
    assert p99 == pytest.approx(np.percentile(milliseconds, 99))
    assert p50 == pytest.approx(1.51, abs=0.01)


def test_what_varies_is_slow_now_and_then():
    assert typical_and_slow(np.array([1.0] * 90 + [7.0] * 10)) == (1, 7)
