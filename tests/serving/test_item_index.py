"""One way to an item index, in memory and on disk, tuned for the searches that will be made."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from lanner.errors import StorageError
from lanner.models.request_form import Int8Rows, Reduction, RequestForm, RequestHead
from lanner.serving import item_index as module
from lanner.serving.engine import Engine
from lanner.serving.item_index import KeptIndexes, index_name, item_index, retrieved
from lanner.serving.retrieval import Index, RetrievalConfig

ITEMS, WIDTH = 40, 6


def make_form(with_head=True):
    draw = lambda *shape: np.random.default_rng([7, *shape]).normal(size=shape).astype(np.float32)
    head = RequestHead(draw(WIDTH, 3), draw(3), draw(ITEMS, 3), draw(3)) if with_head else None
    return RequestForm(draw(ITEMS, WIDTH), draw(ITEMS, WIDTH), draw(ITEMS), (WIDTH,), head)


@pytest.fixture
def asked(monkeypatch):
    """What ``build_index`` was told to tune for, each time it was called."""
    told, build = [], module.build_index

    def noted(vectors, config, queries, retrieved):
        told.append(retrieved)
        return build(vectors, config, queries, retrieved=retrieved)

    monkeypatch.setattr(module, "build_index", noted)
    return told


def kept(folder, form, candidates):
    return KeptIndexes(folder, candidates).of(form, lambda: np.ones((2, WIDTH + 1), np.float32))


def test_it_is_tuned_for_as_many_as_the_head_ranks(asked, tmp_path):
    item_index(make_form(), 30)
    kept(tmp_path, make_form(), 31)
    item_index(make_form(with_head=False), 30)
    assert asked == [30, 31, 10]
    assert (retrieved(make_form(), 30, k=50), retrieved(make_form(False), 30, k=5)) == (50, 5)


def test_one_that_is_kept_is_built_anew_for_another_number_of_candidates_alone(asked, tmp_path):
    for candidates in (30, 30, 200, 30, 200):
        assert isinstance(kept(tmp_path, make_form(), candidates), Index)
    assert asked == [30, 200]
    damaged = tmp_path / index_name(make_form(), 30) / "index.json"
    damaged.write_bytes(damaged.read_bytes() + b" ")
    kept(tmp_path, make_form(), 30)
    assert asked == [30, 200, 30]


def test_forms_share_an_index_where_they_are_searched_alike():
    form = make_form()
    eye = np.eye(WIDTH, 3, dtype=np.float32)
    names = {
        index_name(one, 30)
        for one in (form, replace(form, head=None), replace(form, reduction=Reduction(eye, eye, eye[:, 0])))
    }
    assert len(names) == 3
    assert index_name(form, 30) == index_name(replace(form, reduction=Reduction(neurons=np.arange(2))), 30)


def test_a_rung_in_int8_scans_its_own_codes_and_shares_what_is_no_scan(tmp_path, monkeypatch):
    form = make_form()
    codes = form.map_tables(Int8Rows.of)
    both, queries = KeptIndexes(tmp_path, 30), lambda: np.ones((2, WIDTH + 1), np.float32)
    whole, rounded = both.of(form, queries), both.of(codes, queries)
    assert (whole.kind, rounded.kind, item_index(codes, 30).kind) == ("exact", "exact-int8", "exact-int8")
    assert rounded is both.of(codes, queries)
    found = rounded.vectors(np.arange(ITEMS))
    np.testing.assert_allclose(found[:, :-1], codes.target_ID.codes * codes.target_ID.scale[:, None], rtol=1e-6)
    assert item_index(codes, 30, RetrievalConfig("exact")).kind == "exact"
    monkeypatch.setattr(module, "_own_scan", lambda index, form: None)
    shared = KeptIndexes(tmp_path, 30)
    assert shared.of(form, queries) is shared.of(codes, queries)


def test_where_none_can_be_written_one_is_held_and_that_is_said(monkeypatch, tmp_path, caplog):
    def refused(self, path):
        raise StorageError(f"{path}: cannot be written (Read-only file system); nothing was changed")

    monkeypatch.setattr(Index, "save", refused)
    with caplog.at_level(logging.WARNING):
        index = kept(tmp_path, make_form(), 30)
    assert len(index) == ITEMS
    assert "whenever this bundle is opened" in caplog.text


def test_an_engine_builds_the_same(asked):
    from lanner.artifacts.ladder import Rung

    Engine(Rung("any", make_form()), candidates=25)
    assert asked == [25]
