"""The stages of a request are timed inside it, and parts that are kept keep their commits."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _record, compression
from benchmarks._request_stages import stage_times
from lanner.inference.heads import Head
from lanner.inference.ranker import Query, Ranker
from lanner.inference.scoring_model import ScoringModel

ITEMS, WIDTH, READING = 30, 4, 5.0


class Reader:
    def features(self, texts):
        time.sleep(READING / 1e3)
        return np.ones((len(texts), WIDTH), np.float32)


def times(head=None):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    popularity = np.zeros(ITEMS, np.float32)
    model = ScoringModel(vectors, vectors, popularity, popularity, (WIDTH,), profile_FD=np.eye(WIDTH, dtype=np.float32))
    ranker = Ranker(replace(model, head=head), reader=Reader())
    rows = np.arange(3)
    # One measured request: medians of the parts of several do not add up to the median of the whole.
    return stage_times(ranker, lambda text: ranker.rank([Query(rows, seen=rows, profile=text)]), [("a",)] * 5, 4)


def test_the_parts_of_a_request_add_up_to_it():
    found = times()
    assert set(found) == {"request", "language_model", "gnn", "fusion", "rest"}
    assert found["language_model"] >= READING > found["gnn"] > 0
    assert sum(value for part, value in found.items() if part != "request") == pytest.approx(found["request"])


def test_only_a_model_with_an_mlp_has_its_time():
    head = Head(*(np.ones(shape, np.float32) for shape in ((WIDTH, 2), 2, (ITEMS, 2), 2)))
    assert times(head)["head"] > 0


def test_parts_that_are_kept_keep_the_commit_of_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    parts = {"ml-1m": {"commit": "own"}, "clustered-1m": {"100": {}}, "summary": {}}
    (tmp_path / "compression.json").write_text(json.dumps({"commit": "file", "results": parts}))
    found = compression._earlier()
    assert (found["ml-1m"]["commit"], found["clustered-1m"]["commit"]) == ("own", "file")
    assert "commit" not in found["summary"]
