"""Recommendations and embeddings as files, for a small shop with integer ids."""

import json
import sys

import numpy as np
import polars as pl
import pytest

import lanner
from lanner.errors import ServerError
from lanner.library import export
from lanner.library.export import export_embeddings, export_recommendations, export_to_qdrant


@pytest.fixture(scope="module")
def ials(data):
    pytest.importorskip("implicit")
    return lanner.IALS(factors=4, iterations=2).fit(data)


@pytest.fixture
def small_blocks(monkeypatch):
    for name in ("MOST_USERS", "LEAST_USERS"):
        monkeypatch.setattr(export, name, 5)


def interrupt_after(monkeypatch, blocks):
    """Ctrl-C while block number ``blocks`` is ranked."""
    rank, asked = export.BulkRanker.rank, []

    def interrupted(self, *given):
        asked.append(given)
        if len(asked) > blocks:
            raise KeyboardInterrupt
        return rank(self, *given)

    monkeypatch.setattr(export.BulkRanker, "rank", interrupted)
    return asked


READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", READERS)
def test_a_file_holds_what_recommend_gives(knn, tmp_path, suffix):
    path = tmp_path / f"recs{suffix}"
    found = export_recommendations(knn, path, k=4)
    frame = READERS[suffix](path)
    expected = knn.recommend(knn.dataset.user_ids, k=4, because=False)
    assert frame["user_id"].dtype == pl.Int64
    for column in ("user_id", "item_id", "rank"):
        assert frame[column].to_list() == expected[column].to_list()
    np.testing.assert_allclose(frame["score"], expected["score"], rtol=1e-4)
    assert (found.users, found.rows, found.popular, found.resumed) == (24, len(frame), 0, 0)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_some_users_filters_and_seen_items(knn, tmp_path):
    found = export_recommendations(
        knn, tmp_path / "r.parquet", k=3, users=[7, "nobody", 7, "3"], filters={"genres": "Horror"}, exclude_seen=False
    )
    frame = pl.read_parquet(tmp_path / "r.parquet")
    assert frame["user_id"].unique(maintain_order=True).to_list() == ["7", "nobody", "3"]
    assert frame.height == found.rows == 9
    assert set(frame["item_id"]) <= {102, 103, 106, 107, 110, 111}
    assert (found.users, found.popular, found.unknown) == (3, 1, 1)


@pytest.mark.usefixtures("small_blocks")
def test_a_stopped_export_goes_on_with_the_blocks_that_are_finished(knn, tmp_path, monkeypatch):
    path, told = tmp_path / "recs.parquet", []
    whole = tmp_path / "whole.parquet"
    export_recommendations(knn, whole, k=3)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(lanner.Interrupted, match=r"recs.parquet: stopped; 10 of 24 users are finished"):
            export_recommendations(knn, path, k=3)
    assert not path.exists()
    (tmp_path / "recs.parquet.partial" / "000001.safetensors").write_bytes(b"torn")
    found = export_recommendations(knn, path, k=3, progress=lambda *given: told.append(given))
    assert (found.resumed, found.restarted, told) == (5, False, [(10, 24), (15, 24), (20, 24), (24, 24)])
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "change", [{"k": 2}, {"users": range(20)}, {"exclude_seen": False}, {"filters": {"genres": "Drama"}}]
)
def test_a_stopped_export_of_another_kind_is_discarded(knn, tmp_path, monkeypatch, change):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(lanner.Interrupted):
            export_recommendations(knn, tmp_path / "recs.csv", k=3)
    found = export_recommendations(knn, tmp_path / "recs.csv", **{"k": 3} | change)
    assert (found.resumed, found.restarted) == (0, True)


def test_what_cannot_be_written_is_said_before_anything_is_ranked(knn, tmp_path, monkeypatch):
    asked = interrupt_after(monkeypatch, 0)
    (tmp_path / "recs.csv.partial").mkdir()
    (tmp_path / "recs.csv.partial" / "thesis.txt").touch()
    for name, error, words in (
        ("recs.xlsx", lanner.RequestError, "must end with one of .parquet, .csv, .jsonl"),
        ("recs.csv", lanner.StorageError, "holds something other than an interrupted export"),
    ):
        with pytest.raises(error, match=words):
            export_recommendations(knn, tmp_path / name)
    with pytest.raises(lanner.RequestError, match="k must be at least 1"):
        export_recommendations(knn, tmp_path / "recs.parquet", k=0)
    assert asked == []


def test_embeddings_give_the_scores_of_the_model(ials, tmp_path):
    expected = ials._fitted_ranker.model.score(ials.dataset.user_batch())
    found = export_embeddings(ials, tmp_path / "p")
    users, items = (pl.read_parquet(tmp_path / "p" / f"{kind}s.parquet") for kind in ("user", "item"))
    assert (found.users, found.items, found.left_out) == (24, 11, ())
    assert users["user_id"].to_list() == ials.dataset.user_ids
    np.testing.assert_allclose(
        users["vector"].to_numpy() @ items["vector"].to_numpy().T, expected, rtol=1e-4, atol=1e-5
    )
    assert json.loads((tmp_path / "p" / "embeddings.json").read_text())["dimensions"] == found.dimensions
    export_embeddings(ials, tmp_path / "n", format="npy")
    arrays = {path.stem: np.load(path) for path in (tmp_path / "n").glob("*.npy")}
    np.testing.assert_allclose(arrays["users"] @ arrays["items"].T, expected, rtol=1e-4, atol=1e-5)
    assert arrays["item_ids"].tolist() == ials.dataset.item_ids


def test_a_faiss_index_of_the_items(ials, tmp_path):
    faiss = pytest.importorskip("faiss")
    export_embeddings(ials, tmp_path / "f", format="faiss")
    index, users = faiss.read_index(str(tmp_path / "f" / "items.faiss")), np.load(tmp_path / "f" / "users.npy")
    scores, rows = index.search(users, 3)
    best = ials.recommend(ials.dataset.user_ids, k=3, exclude_seen=False, because=False)
    assert np.load(tmp_path / "f" / "item_ids.npy")[rows].ravel().tolist() == best["item_id"].to_list()
    np.testing.assert_allclose(scores.ravel(), best["score"], rtol=1e-4)


def test_a_model_without_vectors_says_so(knn, tmp_path):
    with pytest.raises(lanner.ConfigError, match=r"item-knn has no embeddings.*export recommendations instead"):
        export_embeddings(knn, tmp_path / "e")


def test_a_search_in_qdrant_gives_the_scores_of_the_model(ials):
    qdrant = pytest.importorskip("qdrant_client", reason="the extra 'qdrant' is not installed")
    client = qdrant.QdrantClient(":memory:")
    found = export_to_qdrant(ials, client, prefix="shop")
    assert (found.files, found.users, found.items) == (("shop_users", "shop_items"), 24, 11)
    best = ials.recommend([7], k=3, exclude_seen=False, because=False)
    (user,) = client.retrieve("shop_users", [ials.dataset.users.row(7)], with_vectors=True)
    assert user.payload == {"id": 7}
    points = client.query_points("shop_items", query=user.vector, limit=3).points
    assert [one.payload["id"] for one in points] == best["item_id"].to_list()
    assert [one.payload["title"] for one in points] == best["title"].to_list()
    np.testing.assert_allclose([one.score for one in points], best["score"], rtol=1e-4)
    with pytest.raises(lanner.ConfigError, match="Qdrant has a collection 'shop_users'"):
        export_to_qdrant(ials, client, prefix="shop")


def test_a_qdrant_that_is_not_there_is_one_line(ials):
    pytest.importorskip("qdrant_client", reason="the extra 'qdrant' is not installed")
    with pytest.raises(ServerError, match="Qdrant cannot be reached or refused the request"):
        export_to_qdrant(ials, "http://127.0.0.1:9")


def test_without_the_client_of_qdrant_the_install_line_is_said(ials, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(lanner.MissingExtraError, match=r"pip install 'lanner\[qdrant\]'"):
        export_to_qdrant(ials, ":memory:")
