"""Indexes are built once for all workers and restarts, outside the bundle."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.inference.ranker import Query, Ranker
from lanner.inference.retrieval import RetrievalConfig
from lanner.inference.scoring_model import ScoringModel
from lanner.serving import index_cache
from lanner.serving.index_cache import cached_index

ITEMS, WIDTH = 1500, 8
KEPT = RetrievalConfig("ivf-pq")


@pytest.fixture
def model() -> ScoringModel:
    pytest.importorskip("faiss", reason="an extra of serving is not installed")
    draw = lambda *shape: np.random.default_rng([1, *shape]).normal(size=shape).astype(np.float32)
    return ScoringModel(draw(ITEMS, WIDTH), draw(ITEMS, WIDTH), draw(ITEMS), np.ones(ITEMS, np.float32), (WIDTH,))


@pytest.fixture
def dataset() -> Dataset:
    random, users, items = np.random.default_rng(0), IdMap([f"u{n}" for n in range(60)]), IdMap(map(str, range(ITEMS)))
    events = Interactions(np.repeat(np.arange(60), 5).astype(np.int32), random.integers(0, ITEMS, 300).astype(np.int32))
    return Dataset(events, users, items, Catalogue.blank(items.external), Catalogue.blank(users.external))


@pytest.fixture
def builds(monkeypatch, tmp_path) -> list[int]:
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    counted, build = [], index_cache.build_index
    monkeypatch.setattr(index_cache, "build_index", lambda *arguments: counted.append(1) or build(*arguments))
    return counted


def test_it_is_built_once_and_then_read(model, dataset, builds):
    with ThreadPoolExecutor(4) as pool:  # as workers that start together
        found = list(pool.map(lambda _: cached_index(model, "v full", dataset, 10, KEPT), range(4)))
    assert len(builds) == 1
    assert cached_index(model, "v full", dataset, 10, KEPT) is not None
    assert len(builds) == 1
    cached_index(model, "v int8", dataset, 10, KEPT)
    cached_index(model, "v full", dataset, 20, KEPT)
    assert len(builds) == 3, "another variant, or other settings, have an index of their own"
    query = Query(np.array([3, 9]), seen=np.array([3, 9]))
    scanned, searched = Ranker(model).rank([query])[0], Ranker(model, index=found[0]).rank([query])[0]
    assert len({*scanned.items} & {*searched.items}) >= 9


def test_a_damaged_one_is_built_again(model, dataset, builds, tmp_path):
    cached_index(model, "v full", dataset, 10, KEPT)
    for file in (tmp_path / "cache").rglob("*.faiss"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert cached_index(model, "v full", dataset, 10, KEPT) is not None
    assert len(builds) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_next_start(model, dataset, builds, monkeypatch, caplog):
    def refuse(self, *arguments, **named):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cached_index(model, "v full", dataset, 10, KEPT) is not None
    assert "is not cached" in caplog.text


def test_a_small_catalog_and_a_model_without_factors_are_scanned(model, dataset, builds):
    assert cached_index(model, "v full", dataset, 10) is None
    nothing = np.zeros((ITEMS, 0), np.float32)
    assert cached_index(ScoringModel(nothing, nothing, model.bias_I, model.bias_I), "v", dataset, 10, KEPT) is None
    assert builds == []
