import json
import shutil
import threading
import time

import numpy as np
import pytest

from lanner.errors import BundleError, ConfigError, MissingExtraError, StorageError
from lanner.serving.retrieval import RetrievalConfig, RowSet, build_index, load_index, tune
from lanner.serving.retrieval import plan as plan_module
from lanner.serving.retrieval.candidates import Graph
from lanner.serving.retrieval.plan import Plan, choose
from lanner.serving.retrieval.tuning import Judge

pytest.importorskip("faiss")

KINDS = ["exact", "exact-int8", "hnsw", "ivf-pq"]
ITEMS, DIMENSIONS = 12_000, 16
LEAST_RECALL = {"exact": 1.0, "exact-int8": 0.98, "hnsw": 0.97, "ivf-pq": 0.97}
ERROR = {"exact": 1e-6, "exact-int8": 1e-2, "hnsw": 1e-3, "ivf-pq": 1e-3}
"""Largest difference of a score from the exact inner product, as a share of the best one."""


def clustered(num_items=ITEMS, num_queries=40, seed=0):
    """Items in clusters, their lengths log-normal like popularity; queries near the clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, DIMENSIONS))
    items = centres[rng.integers(0, 40, num_items)] + 0.5 * rng.standard_normal((num_items, DIMENSIONS))
    items *= np.exp(0.4 * rng.standard_normal((num_items, 1))) / np.linalg.norm(items, axis=1, keepdims=True)
    queries = centres[rng.integers(0, 40, num_queries)] + 0.5 * rng.standard_normal((num_queries, DIMENSIONS))
    return items.astype(np.float32), queries.astype(np.float32)


ITEM_ID, QUERY_BD = clustered()


@pytest.fixture(scope="module")
def built():
    return {kind: build_index(ITEM_ID, RetrievalConfig(kind)) for kind in KINDS}


@pytest.fixture
def index(built, kind):
    """Not to be changed by a test."""
    return built[kind]


def brute_force(items, queries, k, passing=None):
    scores = queries.astype(np.float64) @ items.T.astype(np.float64)
    if passing is not None:
        scores[:, ~passing] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best)


def overlap(found, expected):
    """Share of the expected rows that were found."""
    hits = sum(len(np.intersect1d(ours[ours >= 0], true)) for ours, true in zip(found, expected, strict=True))
    return hits / max((expected >= 0).sum(), 1)


def passing(allow=None, deny=None, num_items=ITEMS):
    mask = np.ones(num_items, bool)
    if allow is not None:
        mask[:] = False
        mask[allow] = True
    mask[[] if deny is None else deny] = False
    return mask


def assert_scored(rows, scores, kind, items=ITEM_ID, queries=QUERY_BD):
    """Scores are inner products of the rows they stand beside, best first, no row twice."""
    found = rows >= 0
    true = np.einsum("bkd,bd->bk", items[np.maximum(rows, 0)], queries)
    assert np.abs(scores - true)[found].max(initial=0) <= ERROR[kind] * np.abs(true).max()
    assert np.isneginf(scores[~found]).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert all(len(np.unique(line[line >= 0])) == (line >= 0).sum() for line in rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10])
def test_finds_what_an_exact_scan_finds(index, kind, k):
    rows, scores = index.search(QUERY_BD, k)
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int64, np.float32, (len(QUERY_BD), k))
    assert overlap(rows, brute_force(ITEM_ID, QUERY_BD, k)) >= LEAST_RECALL[kind] - 0.05 * (k == 1)
    assert_scored(rows, scores, kind)
    assert index.kind == kind


FILTERS = {
    "one allowed": {"allow": [7]},
    "few allowed": {"allow": np.arange(0, ITEMS, 300)},
    "a third allowed": {"allow": np.arange(0, ITEMS, 3)},
    "all but a few allowed": {"allow": np.setdiff1d(np.arange(ITEMS), [1, 5, 9])},
    "a cluster far away allowed": {"allow": np.argsort(ITEM_ID @ QUERY_BD[0])[:2000]},
    "the best denied": {"deny": brute_force(ITEM_ID, QUERY_BD, 100)[0]},
    "half denied": {"deny": np.arange(0, ITEMS, 2)},
    "allowed and denied": {"allow": np.arange(6000), "deny": np.arange(3000, 9000)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", FILTERS)
def test_filters_hold_and_cost_no_results(index, kind, case):
    mask = passing(**FILTERS[case])
    rows, scores = index.search(QUERY_BD, 10, **FILTERS[case])
    assert mask[rows[rows >= 0]].all()
    assert ((rows >= 0).sum(axis=1) == min(10, mask.sum())).all()
    assert overlap(rows, brute_force(ITEM_ID, QUERY_BD, 10, mask)) >= LEAST_RECALL[kind]
    assert_scored(rows, scores, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_filters_leave_may_be_nothing(index, kind):
    for filters in ({"allow": []}, {"allow": [3], "deny": [3]}, {"deny": np.arange(ITEMS)}):
        rows, scores = index.search(QUERY_BD[:2], 4, **filters)
        assert (rows == -1).all()
        assert np.isneginf(scores).all()
        assert rows.shape == scores.shape == (2, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_k_beyond_the_catalogue_returns_all_of_it(index, kind):
    rows, _ = index.search(QUERY_BD[:2], ITEMS + 5)
    assert (rows[:, -5:] == -1).all()
    assert (np.sort(rows[:, :ITEMS], axis=1) == np.arange(ITEMS)).all()


def test_no_queries_and_no_items_are_answered_with_nothing():
    assert build_index(ITEM_ID[:9]).search(np.empty((0, DIMENSIONS)), 3)[0].shape == (0, 3)
    empty = build_index(np.empty((0, DIMENSIONS), np.float32))
    assert (empty.search(QUERY_BD, 3)[0] == -1).all()
    empty.add([4], ITEM_ID[:1])
    assert (empty.search(QUERY_BD, 3)[0] == [4, -1, -1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_seen_by_the_next_search_and_survive_a_rebuild(kind):
    items = ITEM_ID[:3000]
    index = build_index(items, RetrievalConfig(kind))
    now, present = np.zeros((3020, DIMENSIONS), np.float32), passing(np.arange(3000), num_items=3020)
    now[:3000] = items
    unit = QUERY_BD[:, :] / np.linalg.norm(QUERY_BD, axis=1, keepdims=True)

    def check():
        rows, scores = index.search(QUERY_BD, 20)
        assert overlap(rows, brute_force(now, QUERY_BD, 20, present)) >= LEAST_RECALL[kind]
        assert_scored(rows, scores, kind, now)
        assert present[rows].all()
        assert len(index) == present.sum()
        allowed = index.search(QUERY_BD, 3, allow=[0, 1, 3005, 3019])[0]
        assert overlap(allowed, brute_force(now, QUERY_BD, 3, present & passing([0, 1, 3005, 3019], None, 3020))) == 1

    added, updated = np.array([3019, 3005]), np.array([0, 17, 2999])
    index.add(added, unit[:2] * 9)
    now[added], present[added] = unit[:2] * 9, True
    check()
    index.update(updated, unit[2:5] * 9)
    now[updated] = unit[2:5] * 9
    check()
    gone = np.r_[brute_force(now, QUERY_BD, 3, present)[:5].ravel(), 1500:1600]
    gone = np.unique(gone)
    index.remove(gone)
    present[gone] = False
    check()
    index.rebuild()
    assert not len(index.snapshot.fresh)
    check()
    index.add(gone[:2], unit[7:9] * 9)
    now[gone[:2]], present[gone[:2]] = unit[7:9] * 9, True
    check()


def test_a_rebuild_is_called_for_and_keeps_what_changes_meanwhile(monkeypatch):
    index = build_index(ITEM_ID[:3000], RetrievalConfig("exact"))
    index.add(np.arange(3000, 4000), ITEM_ID[3000:4000])
    assert not index.needs_rebuild
    index.remove(np.arange(100))
    assert index.needs_rebuild
    from lanner.serving.retrieval import index as module

    build = module._rebuilt

    def build_while_others_change(*arguments):
        index.remove([200, 3500])
        index.update([300], ITEM_ID[5000:5001])
        index.add([5, 9000], ITEM_ID[[5, 9000]])
        return build(*arguments)

    monkeypatch.setattr(module, "_rebuilt", build_while_others_change)
    index.rebuild()
    expected = np.zeros_like(ITEM_ID)
    expected[:4000] = ITEM_ID[:4000]
    expected[300], expected[9000] = ITEM_ID[5000], ITEM_ID[9000]
    mask = passing([5, *range(100, 4000), 9000], [200, 3500])
    rows, scores = index.search(QUERY_BD, 4000)
    assert (np.sort(rows[:, : mask.sum()], axis=1) == np.flatnonzero(mask)).all()
    assert_scored(rows, scores, "exact", expected)
    assert not index.needs_rebuild


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_index_builds_anew_another_takes_over_with_its_own_changes(kind, tmp_path):
    ours, theirs = (build_index(ITEM_ID[:3000], RetrievalConfig(kind)) for _ in range(2))
    for index in (ours, theirs):
        index.add(np.arange(3000, 4000), ITEM_ID[3000:4000])
        index.remove(np.r_[5, 3100])
    # The other is ahead: what came and went there meanwhile must stay so.
    theirs.add(np.array([4000, 4001]), ITEM_ID[4000:4002])
    theirs.remove(np.array([7, 3200, 4001]))
    ours.rebuild(tmp_path / "index")
    theirs.adopt(tmp_path / "index")
    shutil.rmtree(tmp_path / "index")
    for index, left in ((ours, [5, 3100]), (theirs, [5, 7, 3100, 3200, 4001])):
        mask = passing(np.arange(4000 if index is ours else 4002), left)
        rows, scores = index.search(QUERY_BD, 20)
        assert overlap(rows, brute_force(ITEM_ID, QUERY_BD, 20, mask)) >= LEAST_RECALL[kind]
        assert_scored(rows, scores, kind, ITEM_ID)
        assert len(index) == mask.sum()
    assert theirs.snapshot.fresh.row_F.tolist() == [4000]
    theirs.add(np.array([4002]), 9 * ITEM_ID[:1])
    assert theirs.search(ITEM_ID[:1], 1)[0].tolist() == [[4002]]


def test_a_rebuild_that_the_disk_refuses_leaves_the_index_as_it_was(tmp_path):
    index = build_index(ITEM_ID[:1024], RetrievalConfig("exact"))
    index.add(np.arange(1024, 1030), ITEM_ID[1024:1030])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError):
        index.rebuild(tmp_path / "file" / "index")
    index.remove([0])
    assert len(index) == 1029
    assert len(index.snapshot.fresh) == 6


def test_what_left_before_a_rebuild_or_never_was_in_the_base_has_zeros():
    index = build_index(np.ones((4, 3)))
    index.add([5], np.ones((1, 3)))
    index.remove([1, 5])
    assert index.vectors(np.array([0, 5, 1, 2])).sum(axis=1).tolist() == [3, 0, 3, 3]
    index.rebuild()
    assert index.vectors(np.array([0, 5, 1, 2])).sum(axis=1).tolist() == [3, 0, 0, 3]


def test_a_failed_rebuild_leaves_the_index_as_it_was():
    index = build_index(ITEM_ID[:1024], RetrievalConfig("exact", memory_mib=1))
    index.add(np.arange(1024, 5000), np.repeat(ITEM_ID[:1], 3976, axis=0))
    index.add(np.arange(5000, 22000), np.repeat(ITEM_ID[:1], 17000, axis=0))
    with pytest.raises(ConfigError, match="memory_mib is 1, but 22000 items"):
        index.rebuild()
    index.remove([0])
    assert len(index) == 21999


@pytest.mark.parametrize("kind", KINDS)
def test_searches_and_changes_at_once(kind):
    items, _ = clustered(2000)
    index = build_index(items, RetrievalConfig(kind))
    # Every number of a vector is the same, so that half of one and half of another would show in the score.
    query = np.ones((1, DIMENSIONS), np.float32)
    whole = {float(DIMENSIONS * level) for level in range(20, 40)}
    index.add([2000], np.full((1, DIMENSIONS), 20, np.float32))
    stop, failures, searches = threading.Event(), [], []

    def search():
        try:
            while not stop.is_set():
                rows, scores = index.search(query, 5)
                searches.append(1)
                assert rows[0, 0] == 2000
                assert float(scores[0, 0]) in whole
                assert (rows >= 0).all()
        except BaseException as error:
            failures.append(error)

    def change():
        try:
            for level in range(20, 40):
                index.update([2000], np.full((1, DIMENSIONS), level, np.float32))
                index.add([3000 + level], items[level : level + 1])
                index.remove([level])
                if level == 30:
                    index.rebuild()
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=search) for _ in range(3)] + [threading.Thread(target=change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert searches
    assert len(index) == 2001


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_answers_and_changes_as_before(kind, tmp_path):
    index = build_index(ITEM_ID[:3000], RetrievalConfig(kind, recall_target=0.95))
    index.remove(np.arange(0, 3000, 7))
    index.rebuild()
    index.add([4000], ITEM_ID[4000:4001])
    index.remove([1])
    index.save(tmp_path / "index")
    loaded = load_index(tmp_path / "index")
    for filters in ({}, {"allow": np.arange(1500)}):
        for ours, theirs in zip(
            index.search(QUERY_BD, 20, **filters), loaded.search(QUERY_BD, 20, **filters), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert (loaded.kind, loaded.config, len(loaded)) == (index.kind, index.config, len(index))
    assert loaded.memory_bytes == index.memory_bytes
    assert loaded.measured == index.measured
    loaded.update([4000], 100 * QUERY_BD[:1])
    loaded.rebuild()
    assert loaded.search(QUERY_BD[:1], 1)[0].tolist() == [[4000]]
    loaded.save(tmp_path / "index")
    assert load_index(tmp_path / "index").search(QUERY_BD[:1], 1)[0].tolist() == [[4000]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_named(kind, tmp_path):
    build_index(ITEM_ID[:1500], RetrievalConfig(kind)).save(tmp_path / "index")
    for file in sorted((tmp_path / "index").iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(BundleError, match=r"index\.(json|sha256)|" + file.name) as caught:
            load_index(tmp_path / "index")
        assert "\n" not in str(caught.value)
        file.unlink()
        with pytest.raises(BundleError):
            load_index(tmp_path / "index")
        file.write_bytes(content)
    load_index(tmp_path / "index")


def test_an_index_of_another_schema_is_refused(tmp_path):
    from lanner.artifacts.files import digest

    build_index(ITEM_ID[:9]).save(tmp_path)
    manifest = json.loads((tmp_path / "index.json").read_bytes()) | {"schema": 99}
    sealed = json.dumps(manifest).encode()
    (tmp_path / "index.json").write_bytes(sealed)
    (tmp_path / "index.sha256").write_text(digest(sealed))
    with pytest.raises(BundleError, match="schema 99"):
        load_index(tmp_path)


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_tuning_reaches_its_target_and_no_further(kind):
    index = build_index(ITEM_ID, RetrievalConfig(kind))
    efforts = []
    for target in (0.6, 0.99):
        recall = tune(index, QUERY_BD, target)
        efforts.append(index.snapshot.effort)
        assert recall >= target
        found = overlap(index.search(QUERY_BD, 10)[0], brute_force(ITEM_ID, QUERY_BD, 10))
        assert found == pytest.approx(recall, abs=0.01)
    assert efforts[0] < efforts[1]
    assert tune(index, QUERY_BD, 0.99, k=10, retrieved=200) >= 0.99
    assert index.snapshot.effort <= efforts[1]


@pytest.mark.parametrize("kind", ["exact", "exact-int8"])
def test_exact_kinds_need_no_tuning(index, kind):
    assert tune(index, QUERY_BD, 1.0) == 1.0


def test_size_target_and_memory_say_what_may_be_built():
    scan, scan_int8, cells, graph = (
        Plan(kind, form)
        for kind, form in zip(
            ("exact", "exact-int8", "ivf-pq", "hnsw"), ("float32", "int8", "float16", "float16"), strict=True
        )
    )
    assert choose(10_000, 64, RetrievalConfig()) == (scan,)
    assert choose(10_000, 64, RetrievalConfig(memory_mib=1)) == (scan_int8,)
    assert choose(1_000_000, 64, RetrievalConfig()) == (scan, cells, graph)
    assert choose(1_000_000, 64, RetrievalConfig("exact-int8")) == (scan_int8,)
    assert choose(1_000_000, 64, RetrievalConfig(recall_target=1)) == (scan,)
    assert choose(1_000_000, 64, RetrievalConfig(memory_mib=160)) == (scan_int8, cells)
    assert choose(1_000_000, 64, RetrievalConfig(memory_mib=110)) == (scan_int8, Plan("ivf-pq", "int8"))
    assert choose(1_000_000, 64, RetrievalConfig("ivf-pq")) == (cells,)
    assert choose(1_000_000, 64, RetrievalConfig("ivf-pq", memory_mib=110)) == (Plan("ivf-pq", "int8"),)
    assert choose(10, 64, RetrievalConfig("hnsw")) == (scan,)
    with pytest.raises(ConfigError, match=r"memory_mib is 9, but 1000000 items of 64 dimensions need \d+ as exact or"):
        choose(1_000_000, 64, RetrievalConfig(memory_mib=9))


def test_a_wide_dimension_costs_int8_nothing():
    """A bias twenty times as wide as the factors would leave them six codes; it is kept as it is."""
    wide_ID = np.hstack([ITEM_ID, 20 * np.random.default_rng(5).normal(size=(ITEMS, 1)).astype(np.float32)])
    query_BD = np.hstack([QUERY_BD, np.ones((len(QUERY_BD), 1), np.float32)])
    index = build_index(wide_ID, RetrievalConfig("exact-int8"))
    rows, scores = index.search(query_BD, 10)
    expected = np.take_along_axis(query_BD @ wide_ID.T, rows, axis=1)
    error = np.sqrt(np.mean((scores - expected) ** 2)) / np.std(QUERY_BD @ ITEM_ID.T)
    assert error < 0.01
    np.testing.assert_array_equal(index.vectors(np.arange(5))[:, -1], wide_ID[:5, -1])
    assert overlap(rows, brute_force(wide_ID, query_BD, 10)) > 0.98


def test_auto_keeps_what_measures_fastest(monkeypatch, caplog):
    """Times are made up, so that each structure wins in turn; recall is real."""
    monkeypatch.setattr(plan_module, "_EXACT_NUMBERS", 0)
    for winner in ("exact", "hnsw", "ivf-pq"):
        times = {kind: 1.0 if kind == winner else 5.0 for kind in KINDS}
        monkeypatch.setattr(Judge, "_microseconds", lambda _, snapshot, times=times: times[snapshot.base.plan.kind])
        with caplog.at_level("INFO", "lanner.serving.retrieval"):
            index = build_index(ITEM_ID, RetrievalConfig(recall_target=0.98), QUERY_BD, k=10, retrieved=20)
        assert index.kind == winner == index.measured.kind
        assert index.measured.microseconds == 1.0
        found = overlap(index.search(QUERY_BD, 20)[0][:, :10], brute_force(ITEM_ID, QUERY_BD, 10))
        assert found == pytest.approx(index.measured.recall, abs=0.005)
        assert found >= 0.98
        assert f"{winner} finds {index.measured.recall:.2%} of the best in 1 µs a query" in caplog.text
        index.add([ITEMS], ITEM_ID[:1])
        index.rebuild()
        assert index.kind == winner == index.measured.kind


def test_a_graph_that_a_trial_shows_to_be_too_slow_is_not_built(monkeypatch):
    monkeypatch.setattr(plan_module, "_EXACT_NUMBERS", 0)
    built, build = [], Graph.build
    monkeypatch.setattr(Graph, "build", lambda items: built.append(len(items)) or build(items))
    for graph_time, expected in ((4.0, [ITEMS // 10]), (1.0, [ITEMS // 10, ITEMS])):
        times = {"exact": 7.0, "ivf-pq": 5.0, "hnsw": graph_time}
        monkeypatch.setattr(Judge, "_microseconds", lambda _, snapshot, times=times: times[snapshot.base.plan.kind])
        assert build_index(ITEM_ID, RetrievalConfig(), QUERY_BD).kind == ("ivf-pq" if graph_time == 4 else "hnsw")
        assert built == expected
        built.clear()


def test_where_nothing_reaches_the_target_recall_decides(monkeypatch):
    monkeypatch.setattr(plan_module, "_EXACT_NUMBERS", 0)
    recalls = {"exact": 0.7, "hnsw": 0.8, "ivf-pq": 0.75}
    monkeypatch.setattr(Judge, "_recall", lambda _, snapshot: recalls[snapshot.base.plan.kind])
    index = build_index(ITEM_ID, RetrievalConfig(), QUERY_BD)
    assert (index.kind, index.measured.recall) == ("hnsw", 0.8)
    # More effort finds no more here, so the least is spent.
    assert index.snapshot.effort == index.snapshot.base.candidates.efforts[0]


def test_the_time_measured_is_that_of_single_queries():
    index = build_index(ITEM_ID, RetrievalConfig("exact"), QUERY_BD)
    seconds = []
    for query in QUERY_BD:
        begun = time.perf_counter()
        index.search(query[None], 10)
        seconds.append(time.perf_counter() - begun)
    assert index.measured.recall == 1
    assert 0.2 < index.measured.microseconds / (1e6 * np.median(seconds)) < 5
    assert tune(index, QUERY_BD[:1], 0.9) == 1.0
    index.set_effort(1)
    assert index.measured is None
    assert build_index(np.empty((0, DIMENSIONS))).measured is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_foreseen_is_the_memory_taken(index, kind):
    from lanner.serving.retrieval.plan import expected_bytes

    foreseen = expected_bytes(index.snapshot.base.plan, ITEMS, DIMENSIONS)
    assert index.memory_bytes == pytest.approx(foreseen, rel=0.05)


@pytest.mark.parametrize(
    "setting", [{"kind": "flat"}, {"recall_target": 0.0}, {"recall_target": 1.1}, {"memory_mib": -1}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=f"retrieval.{next(iter(setting))}"):
        RetrievalConfig(**setting)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_hold_where_rows_have_gaps_and_items_are_fresh(kind):
    index = build_index(ITEM_ID[:4000], RetrievalConfig(kind))
    index.remove(np.arange(0, 4000, 3))
    index.rebuild()
    index.add(np.arange(0, 90, 3), ITEM_ID[0:90:3])
    index.remove([1])
    present = passing([*range(0, 90, 3), *(row for row in range(2, 4000) if row % 3)])
    for rows in ([1, 2, 3, 4], np.arange(0, 4000, 500), np.arange(100), np.arange(1000, 4000)):
        for filters in ({"allow": rows}, {"deny": rows}, {"allow": RowSet.of(np.asarray(rows), 4000)}):
            mask = present & (passing(deny=rows) if "deny" in filters else passing(allow=rows))
            found, scores = index.search(QUERY_BD, 10, **filters)
            assert mask[found[found >= 0]].all()
            assert ((found >= 0).sum(axis=1) == min(10, mask.sum())).all()
            assert overlap(found, brute_force(ITEM_ID, QUERY_BD, 10, mask)) >= LEAST_RECALL[kind]
            assert_scored(found, scores, kind)


@pytest.mark.parametrize("number", [0, 1, 7, 63, 64, 65, 1000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_set_of_rows_is_those_rows(number, share):
    rows = np.flatnonzero(np.random.default_rng(number).random(number) < share)
    listed = RowSet.of(rows[::-1].astype(np.int32), number)
    assert listed.rows().tolist() == rows.tolist()
    assert listed.count == len(rows)
    assert listed.holds(np.arange(number + 20)).nonzero()[0].tolist() == rows.tolist()
    assert len(listed.first_bytes(3)) == 3
    with pytest.raises(ValueError, match=f"row {number}, but rows are 0 or more and below {number}"):
        RowSet.of(np.array([number]), number)


def test_malformed_calls_end_with_one_line():
    index = build_index(ITEM_ID[:100])
    holed = ITEM_ID[:3].copy()
    holed[1, 2] = np.nan
    calls = [
        (lambda: build_index(holed), "item vectors hold NaN or infinity, first in line 1"),
        (lambda: build_index(ITEM_ID[0]), "shape"),
        (lambda: build_index(np.full((2000, 4), 1e6), RetrievalConfig("hnsw")), "up to 65504"),
        (lambda: index.search(QUERY_BD[:, :3], 1), r"queries are of shape \[40, 3\]"),
        (lambda: index.search(holed, 1), "queries hold NaN"),
        (lambda: index.search(QUERY_BD, 0), "k is 0"),
        (lambda: index.search(QUERY_BD, 1, allow=[100]), "allow hold row 100"),
        (lambda: index.search(QUERY_BD, 1, deny=[-1]), "deny hold row -1"),
        (lambda: index.search(QUERY_BD, 1, deny=[0.5]), "whole numbers"),
        (lambda: index.add([5], ITEM_ID[:1]), "row 5 is in the index already"),
        (lambda: index.add([-5], ITEM_ID[:1]), "row -5"),
        (lambda: index.add([200, 200], ITEM_ID[:2]), "twice"),
        (lambda: index.add([200, 201], ITEM_ID[:1]), "2 rows came with 1 vectors"),
        (lambda: index.add([200], holed[1:2]), "vectors hold NaN"),
        (lambda: index.update([100], ITEM_ID[:1]), "row 100 is not in the index"),
        (lambda: index.remove([100]), "row 100 is not in the index"),
        (lambda: index.set_effort(0), "effort is 0"),
        (lambda: tune(index, QUERY_BD[:0], 0.9), "no queries"),
        (lambda: tune(index, QUERY_BD, 0.9, k=10, retrieved=5), "retrieved is 5"),
        (lambda: tune(index, QUERY_BD, 1.5), "recall_target is 1.5"),
        (lambda: build_index(ITEM_ID[:9], queries=QUERY_BD[:0]), "no queries"),
        (lambda: build_index(ITEM_ID[:9], queries=QUERY_BD[:, :3]), "queries are of shape"),
        (lambda: build_index(ITEM_ID[:9], k=0), "k is 0"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert len(index) == 100


def test_without_faiss_the_approximate_kinds_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"retrieval by hnsw needs the package 'faiss'.*lanner\[serving\]"):
        build_index(ITEM_ID, RetrievalConfig("hnsw"))
    assert build_index(ITEM_ID, RetrievalConfig("exact-int8")).search(QUERY_BD, 1)[0].shape == (40, 1)
