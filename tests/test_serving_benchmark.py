"""A short form of every part of the serving benchmark, without peers: it runs, and length-independent properties hold.

Only the full form gives valid figures: tests share their machine.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("psutil", reason="the extra 'bench' is not installed")

from benchmarks import _serving_work, serving
from benchmarks._serving_lengths import SHORT
from benchmarks._serving_peers.common import Recommender
from lanner.artifacts.bundle import read_bundle
from lanner.inference.ranker import Query, Ranker

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
        yield serving.measure(SHORT, PARTS)


def test_peers_answer_what_lanner_answers(found):
    work = _serving_work.prepared(*SHORT.catalogues)
    peer, ranker = Recommender(work.peers), Ranker(read_bundle(work.bundle).variant().model)
    for history in json.loads(work.requests.read_text())["histories"][:20]:
        answer = peer.recommend([str(item) for item in history], 10)["items"]
        rows = np.array(history)
        wanted = ranker.rank([Query(rows, seen=rows)])[0]
        assert [one["item_id"] for one in answer] == [str(row) for row in wanted.items]
        assert [one["score"] for one in answer] == pytest.approx(wanted.scores.tolist(), abs=1e-3)


def test_an_overload_is_answered_by_what_is_quick_and_ends(found):
    overload = found["overload"]
    assert overload["during"]["goodput_per_s"] > 0
    assert overload["after"]["failed"] == 0
    assert sum(overload["during"]["answered_by"].values()) == pytest.approx(1)
    assert "popularity" in overload["during"]["answered_by"]


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


def test_hostile_clients_take_no_memory(found):
    assert found["summary"]["abuse_memory_mib"] < 100


def test_no_request_makes_it_fail(found):
    assert (found["summary"]["schema_server_errors"], found["summary"]["malformed_5xx"]) == (0, 0)
