"""A short form of every part of the serving benchmark, without peers: that it runs, and what holds at any length.

Figures are those of the full form alone: tests share their machine.
"""

import math
import os
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="the extra 'bench' is not installed")

from benchmarks import _serving_work, serving
from benchmarks._serving_lengths import SHORT

PARTS = ("overload", "simulator", "kills", "soak", "abuse")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(os.environ.get("LANNER_DATA", "")) / "gowalla-lightgcn").is_dir(),
        reason="the simulated catalogue is as skewed as gowalla-lightgcn, which is not under LANNER_DATA",
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_serving_work, "_ROOM", tmp_path_factory.mktemp("serving"))
        return serving.measure(SHORT, PARTS)


def test_an_overload_is_answered_by_what_is_quick_and_ends(found):
    ladder = found["overload"]["ladder"]
    assert ladder["during"]["goodput_per_s"] > 0
    assert ladder["during"]["rejected"] > 0
    assert ladder["after"]["failed"] == 0
    assert sum(ladder["during"]["answered_by"].values()) == pytest.approx(1)


def test_the_simulation_predicts_every_load(found):
    assert len(found["simulator"]["loads"]) == 3
    for row in found["simulator"]["loads"]:
        guess = row["predicted"]
        assert all(math.isfinite(value) and value > 0 for value in guess.values())
        assert guess["p50_ms"] <= guess["p99_ms"]
        assert guess["goodput_per_s"] <= row["measured"]["offered_per_s"]


def test_however_little_is_answered_every_load_has_requests(found):
    rows = found["simulator"]["calibrating"] + found["simulator"]["loads"]
    assert min(row["measured"]["offered_per_s"] for row in rows) * SHORT.simulated_s > 100


def test_a_killed_server_has_lost_and_doubled_nothing(found):
    kills = found["kills"]
    assert kills["kills"] == SHORT.kills
    assert kills["acknowledged"] > 0
    assert (kills["lost"], kills["duplicated"]) == (0, 0)


def test_nothing_grows_without_bound(found):
    assert found["soak"]["descriptor_growth"] <= 16
    assert found["soak"]["memory_growth"] < 0.5


def test_no_request_makes_it_fail(found):
    assert (found["summary"]["schema_server_errors"], found["summary"]["malformed_5xx"]) == (0, 0)
