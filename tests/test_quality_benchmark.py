"""``benchmarks.quality``: what is tuned on what, which rows a record holds, and what its summary says."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import small_world

from benchmarks import _protocols, quality
from benchmarks._quality_settings import CELLS, PROTOCOLS, SKIPPED
from lanner.config import from_dict
from lanner.data.interactions import Interactions

GOWALLA = "gowalla-lightgcn/published"


def cell_of(suite, place):
    return next(one for one in CELLS[suite] if f"{one.dataset}/{one.protocol}" == place)


def test_the_best_setting_on_validation_is_taken_and_test_users_are_never_asked(monkeypatch):
    split = small_world().split("random", seed=1)
    asked = []

    def evaluate(fitted, held_out, **_):
        asked.append(held_out)
        return {"ndcg_at_10": {200.0: 0.4, 100.0: 0.3}.get(fitted.config.regularisation, 0.1)}

    monkeypatch.setattr("lanner.evaluation.protocol.evaluate", evaluate)
    config, said = quality._searched(from_dict({"model": "ease"}), split)
    assert config.ease == replace(config.ease, regularisation=200.0)
    assert (said["chosen"], said["validation_ndcg_at_10"]) == ({"regularisation": 200.0}, 0.4)
    assert all(one is split.validation for one in asked)


def test_a_trained_head_is_recorded_beside_what_is_served():
    trainer = SimpleNamespace(qualities={"weights": 0.3, "head": 0.31}, trained_qualities={"graph": 0.2, "head": 0.29})
    assert quality._qualities_of(trainer) == {"validation_ndcg_at_10": 0.31, "validation_ndcg_at_10_of_head": 0.29}
    trainer = SimpleNamespace(qualities={"weights": 0.3}, trained_qualities={})
    assert quality._qualities_of(trainer) == {"validation_ndcg_at_10": 0.3}


def test_rows_of_two_suites_are_kept_apart():
    assert len({quality._folder(cell_of(suite, GOWALLA), 1) for suite in CELLS}) == 2


def test_no_cell_measures_what_is_skipped():
    for cells in CELLS.values():
        for cell in cells:
            assert not set(cell.models) & set(SKIPPED.get(f"{cell.dataset}/{cell.protocol}", {}))


def test_a_row_that_is_no_longer_skipped_leaves_the_record_with_a_warning(capsys):
    rows = {"hybrid": {"skipped": "too slow"}, "ease": {"skipped": "too large"}, "random": {"ndcg_at_10": 0.1}}
    quality._bring_up_to_date(rows, cell_of("foundation", GOWALLA))
    assert set(rows) == {"ease", "random"}
    assert f"WARNING: {GOWALLA}/hybrid is no longer skipped" in capsys.readouterr().err


@pytest.mark.parametrize("hybrid", [{"skipped": "too slow", "paired_difference": {}}, None])
def test_a_hybrid_that_was_not_measured_has_no_paired_differences(monkeypatch, tmp_path, hybrid):
    monkeypatch.setattr(quality, "CACHE", tmp_path)
    cell = cell_of("foundation", GOWALLA)
    quality._folder(cell, 1).mkdir(parents=True)
    for name in ("hybrid", "random"):
        np.save(quality._per_user_file(cell, name), np.linspace(0, 1, 20))
    rows = {"random": {"ndcg_at_10": 0.1}} | ({} if hybrid is None else {"hybrid": hybrid})
    quality._finish(rows, cell)
    assert "paired_difference" not in rows.get("hybrid", {})


def test_the_summary_takes_the_lowest_figure_of_every_kind():
    def rows(hybrid, gnn=None, language=None, metric="ndcg_at_10"):
        named = {"hybrid": hybrid, "gnn": gnn, "language": language}
        return {name: {metric: value} for name, value in named.items() if value is not None}

    foundation = {
        "ml-latest-small": {"random-80-20": rows(0.36, 0.3, 0.2)},
        "ml-1m": {"random-80-20": rows(0.44, 0.4, 0.1), "cold-items": rows(0.9)},
    }
    window = {"halfway": {"kept": 0.96}, "at_start": {"kept": 0.93}, "time_share": 0.05}
    texts = {"popularity": 0.2, "language": 0.6, "hybrid": 0.9, "hybrid, int8": 0.8}
    published = {
        "gowalla-lightgcn": {"published": rows(0.15, metric="ndcg_at_20")},
        "lastfm-hetrec2011": {"random-8-1-1": rows(0.23)},
        "windows": {"ml-1m": {"1": window}},
        "query_texts": {"ml-latest-small": {"1": {"query_text_ndcg": texts}}},
    }
    assert quality._summary({"foundation": foundation, "published": published}, "published") == {
        "tables_won": 1,  # ChebyCF's .1616 is above .15
        "tables": 2,
        "hybrid_over_best_half_min": 0.1,
        "incremental_kept": 0.93,
        "incremental_time_share": 0.05,
        "query_text_ndcg": 0.8,
    }


def world_with_a_repeat():
    """Everyone's last event is new except the first user's, which repeats the first event."""
    world = small_world()
    users, items = ([*kept.tolist()] for kept in (world.interactions.user, world.interactions.item))
    return world.with_interactions(
        Interactions(np.array([*users, 0], np.int32), np.array([*items, items[users.index(0)]], np.int32))
    )


def keep(monkeypatch, tmp_path, name, write=quality._keep):
    """The row that is kept of a popularity model on ``leave-last-out``, and the users it was asked for."""
    monkeypatch.setattr(quality, "CACHE", tmp_path)
    asked, report_of = [], _protocols.report_of
    monkeypatch.setattr(_protocols, "report_of", lambda *given: asked.append(given[1].test) or report_of(*given))
    cell = cell_of("published", "yelp-p5/leave-last-out")
    split = world_with_a_repeat().split("leave-last-out")
    from lanner.registry import MODELS

    fitted = MODELS["popularity"](from_dict({"model": "popularity"}), None).fit(split.train)
    write(cell, name, fitted, 1.0, split=split, seed=1)
    (path,) = quality._folder(cell, 1).glob("*.json")
    return json.loads(path.read_text()), asked[0], split


def test_repeats_count_as_misses_in_a_second_figure(monkeypatch, tmp_path):
    row, asked, split = keep(monkeypatch, tmp_path, "popularity")
    everyone = (split.labels == 2).sum()
    assert len(asked) == everyone - 1
    for metric in ("recall_at_10", "ndcg_at_20"):
        assert row[f"{metric}_repeats_missed"] == pytest.approx(row[metric] * len(asked) / everyone, abs=2e-6)
    assert 0 < row["recall_at_10_repeats_missed"] < row["recall_at_10"]


def test_a_model_fitted_on_train_alone_reads_the_validation_item_before_a_last_event(monkeypatch, tmp_path):
    _, asked, split = keep(monkeypatch, tmp_path, "popularity", quality._keep_alone)
    assert np.array_equal(asked.users.history.values, split.test.users.history.values)
    assert len(asked.users.history.values) > len(split.train.user_batch(asked.rows).history.values)


def test_every_leave_last_out_protocol_is_told_in_words():
    asked = {cell.protocol for cells in CELLS.values() for cell in cells if cell.split["name"] == "leave-last-out"}
    assert asked == set(PROTOCOLS)
