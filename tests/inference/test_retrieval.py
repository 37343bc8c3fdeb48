"""Retrieval against a brute-force scan: recall, masks, corruption."""

import json
import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanner.errors import BundleError, ConfigError, MissingExtraError, StorageError
from lanner.inference import retrieval
from lanner.inference.eligibility import Availability, RowMask, eligible
from lanner.inference.retrieval import RetrievalConfig, VectorIndex, build_index

pytest.importorskip("faiss")

KINDS = ["exact", "ivf-pq"]
ITEMS, DIMENSIONS = 12_000, 17
LEAST = {"exact": 1.0, "ivf-pq": 0.97}
ERROR = {"exact": 1e-6, "ivf-pq": 1e-3}
"""Largest difference of a score from the exact inner product, as a share of the best one."""


def clustered(number, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, DIMENSIONS))
    return (centres[random.integers(0, 40, number)] + 0.5 * random.standard_normal((number, DIMENSIONS))).astype("f")


ITEM_ID = clustered(ITEMS, 0) * np.exp(0.4 * np.random.default_rng(1).standard_normal((ITEMS, 1))).astype("f")
SAMPLE_BD, QUERY_BD = clustered(200, 2), clustered(40, 3)


@pytest.fixture(scope="module")
def built():
    return {kind: build_index(ITEM_ID, RetrievalConfig(kind), SAMPLE_BD, retrieved=50) for kind in KINDS}


@pytest.fixture(params=KINDS)
def index(built, request):
    return built[request.param]


def brute_force(k, eligible_BI=True):
    scores = np.where(eligible_BI, QUERY_BD @ ITEM_ID.T, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best)


def overlap(found, expected):
    hits = sum(len(np.intersect1d(ours[ours >= 0], true)) for ours, true in zip(found, expected, strict=True))
    return hits / (expected >= 0).sum() if (expected >= 0).any() else 1


def check(index, found, k, eligible_BI, least=None):
    """No row that is not eligible, none twice, as many as there are, and their scores, best first."""
    rows, scores = found
    assert (rows.dtype, scores.dtype, rows.shape) == (np.int64, np.float32, (len(QUERY_BD), k))
    eligible_BI = np.broadcast_to(eligible_BI, (len(QUERY_BD), ITEMS))
    for line, mask in zip(rows, eligible_BI, strict=True):
        held = line[line >= 0]
        assert mask[held].all()
        assert len(np.unique(held)) == len(held) == min(k, mask.sum())
    true = np.einsum("bkd,bd->bk", ITEM_ID[rows], QUERY_BD)
    assert np.abs(scores - true)[rows >= 0].max(initial=0) <= ERROR[index.kind] * np.abs(true).max()
    assert np.isneginf(scores[rows < 0]).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert overlap(rows, brute_force(k, eligible_BI)) >= (least or LEAST[index.kind] - 0.05 * (k == 1))


@pytest.mark.parametrize("k", [1, 10, 50, 300])
def test_finds_what_a_scan_finds(index, k):
    check(index, index.search(QUERY_BD, k), k, True)


def test_the_recall_is_reached_on_queries_that_were_not_tuned_for(built):
    index = built["ivf-pq"]
    assert index.recall >= 0.99
    assert overlap(index.search(QUERY_BD, 10)[0], brute_force(10)) >= 0.99
    assert overlap(index.search(QUERY_BD, 50)[0], brute_force(50)) >= 0.95
    assert index.effort.probed < index.lists


MASKS = {
    "nothing": np.zeros(ITEMS, bool),
    "one": np.arange(ITEMS) == 7,
    "few": np.arange(ITEMS) % 300 == 0,
    "a third": np.arange(ITEMS) % 3 == 0,
    "all but a few": ~np.isin(np.arange(ITEMS), [1, 5, 9]),
    "all but the best": ~np.isin(np.arange(ITEMS), brute_force(100)[:, :60]),
    "the worst": np.isin(np.arange(ITEMS), np.argsort(ITEM_ID @ QUERY_BD[0])[:2000]),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_honoured_and_cost_no_results(index, name):
    check(index, index.search(QUERY_BD, 10, MASKS[name]), 10, MASKS[name])


@pytest.mark.parametrize("name", [None, "few", "a third", "all but a few"])
def test_each_query_has_rows_of_its_own_excluded(index, name):
    mask = None if name is None else MASKS[name]
    excluded = [best[: 7 * line] for line, best in enumerate(brute_force(300))]
    excluded[1] = np.append(excluded[1], [ITEMS, ITEMS + 50])
    eligible_BI = np.tile(True if mask is None else mask, (len(QUERY_BD), 1)) & np.ones((1, ITEMS), bool)
    for line, rows in enumerate(excluded):
        eligible_BI[line, rows[rows < ITEMS]] = False
    check(index, index.search(QUERY_BD, 10, mask, excluded), 10, eligible_BI)


def test_a_long_history_is_excluded_whole(index):
    excluded = [best[:3000] for best in brute_force(3000)]
    eligible_BI = np.ones((len(QUERY_BD), ITEMS), bool)
    np.put_along_axis(eligible_BI, np.stack(excluded), False, axis=1)
    check(index, index.search(QUERY_BD, 10, None, excluded), 10, eligible_BI, 0.9)  # the 3,000 best are the worst case


ROWS = st.lists(st.integers(0, ITEMS - 1), max_size=30).map(lambda rows: np.array(rows, np.int64))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), hidden=ROWS, deny=ROWS, allow=st.none() | ROWS, near=st.integers(0, 400))
def test_no_path_leaks_a_row_that_is_not_eligible(built, data, hidden, deny, allow, near):
    index, line = built[data.draw(st.sampled_from(KINDS))], data.draw(st.integers(0, 39))
    best = brute_force(500)[line]
    available = Availability(ITEMS)
    available.hide(np.append(hidden, best[near : near + 20]))
    allowed = None if allow is None else RowMask.of(np.append(allow, best), ITEMS)
    seen = best[data.draw(st.integers(0, 400)) :][:60]
    one_mask = eligible(available, allowed, deny, seen, ITEMS)
    at_once = index.search(QUERY_BD[line : line + 1], 10, one_mask)[0]
    shared = eligible(available, allowed, None, None, ITEMS)
    apart = index.search(QUERY_BD[line : line + 1], 10, shared, [np.append(deny, seen)])[0]
    for rows in (at_once[0], apart[0]):
        assert one_mask[rows[rows >= 0]].all()
        assert (rows >= 0).sum() == min(10, one_mask.sum())


def test_no_queries_and_no_items_are_answered_with_nothing(index):
    assert index.search(QUERY_BD[:0], 3)[0].shape == (0, 3)
    empty = build_index(ITEM_ID[:0])
    assert (empty.search(QUERY_BD, 3, None, [np.array([1])] * len(QUERY_BD))[0] == -1).all()


def test_vectors_are_given_back_as_they_are_kept(index):
    rows = np.array([5, 0, ITEMS - 1])
    np.testing.assert_allclose(index.vectors(rows), ITEM_ID[rows], rtol=1e-3, atol=1e-3)


def test_an_index_is_exact_where_that_is_as_good(monkeypatch, caplog):
    assert build_index(ITEM_ID).kind == "exact"  # small
    assert build_index(ITEM_ID[:900], RetrievalConfig("ivf-pq")).kind == "exact"
    monkeypatch.setattr(retrieval, "EXACT_ITEMS", 2000)
    assert build_index(ITEM_ID, None, SAMPLE_BD).kind == "ivf-pq"
    noise = np.random.default_rng(0).standard_normal((3000, 200)).astype("f")
    assert build_index(noise, None, noise[:100], retrieved=200).kind == "exact"  # no structure: a scan is cheaper
    assert build_index(ITEM_ID[:3000] * 1e6).kind == "exact"  # beyond float16
    monkeypatch.setitem(sys.modules, "faiss", None)
    with caplog.at_level(logging.WARNING):
        assert build_index(ITEM_ID).kind == "exact"
    assert "pip install 'lanner[serving]'" in caplog.text
    with pytest.raises(MissingExtraError):
        build_index(ITEM_ID, RetrievalConfig("ivf-pq"))


def test_settings_and_vectors_are_checked():
    with pytest.raises(ConfigError, match="kind is 'hnsw'"):
        RetrievalConfig("hnsw")
    with pytest.raises(ConfigError, match=r"retrieved_recall is 1\.5"):
        RetrievalConfig(retrieved_recall=1.5)
    with pytest.raises(ValueError, match="NaN"):
        build_index(np.full((3, 2), np.nan, np.float32))


def test_a_saved_index_is_mapped_and_answers_as_before(index, tmp_path):
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    for filters in ({}, {"mask": MASKS["a third"]}, {"excluded": [np.arange(9)] * len(QUERY_BD)}):
        for ours, theirs in zip(
            index.search(QUERY_BD, 20, **filters), loaded.search(QUERY_BD, 20, **filters), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert (loaded.kind, loaded.recall, loaded.effort) == (index.kind, index.recall, index.effort)
    assert (loaded.num_items, loaded.dimensions, loaded.memory_bytes) == (ITEMS, DIMENSIONS, index.memory_bytes)


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: content[:-1] + b"\1\2"]
)
def test_a_damaged_file_is_named(index, tmp_path, damage):
    folder = tmp_path / "index"
    index.save(folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.write_bytes(damage(content))
        with pytest.raises(BundleError, match=path.name if path.name != retrieval.CHECKSUM else "index"):
            VectorIndex.load(folder)
        path.write_bytes(content)
    VectorIndex.load(folder)


def test_a_missing_index_another_schema_and_a_foreign_folder(index, tmp_path):
    with pytest.raises(BundleError, match="no index"):
        VectorIndex.load(tmp_path / "none")
    index.save(tmp_path / "index")
    header = json.loads((tmp_path / "index" / retrieval.HEADER).read_text()) | {"schema": 99}
    content = json.dumps(header).encode()
    (tmp_path / "index" / retrieval.HEADER).write_bytes(content)
    (tmp_path / "index" / retrieval.CHECKSUM).write_text(retrieval.digest(content))
    with pytest.raises(BundleError, match="schema 99"):
        VectorIndex.load(tmp_path / "index")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError):
        index.save(tmp_path / "other")
