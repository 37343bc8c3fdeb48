"""``benchmarks.ablation``: ablated parts are gone, and the figure shows what was measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import small_world

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import ablation
from lanner.data.splitting import random_ratio
from lanner.inference.scoring_model import popularity_model
from lanner.models import neural


def split_of_small_world():
    return random_ratio(small_world(), 0.2, 0.2)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(neural, "item_relations", neural.item_relations)


def test_texts_order_and_friends_are_gone_from_training():
    split = split_of_small_world()
    assert not any(ablation.without("texts", split).refit.item_catalogue.texts)
    assert ablation.without("friends", split).train.ties is None
    assert not ablation.without("order", split).train.has_order


def test_a_relation_is_gone_from_the_relational_view_alone():
    split = split_of_small_world()
    names = set(neural.item_relations(split.train))
    assert "interaction" in names
    changed = ablation.without("interaction", split)
    assert set(neural.item_relations(changed.train)) == names - {"interaction"}
    assert len(changed.train.interactions) == len(split.train.interactions)


def test_a_relation_that_the_data_lack_is_an_error():
    with pytest.raises(ValueError, match="no relation 'colour'"):
        ablation.without("colour", split_of_small_world())


def test_parameters_are_what_the_served_model_multiplies():
    model = popularity_model(np.array([3.0, 2.0]), 4)
    assert ablation.parameters(model) == 2, "two biases; neither popularity nor the reduction counts"


def test_the_picture_names_every_row(monkeypatch, tmp_path):
    monkeypatch.setattr(ablation, "PICTURE", tmp_path / "pictures" / "ablation.svg")
    row = {"ndcg_at_10": 0.3, "ci95": {"ndcg_at_10": [0.2, 0.4]}}
    rows = {"gnn": row, "hybrid": row, "hybrid-without-texts": row}
    ablation.draw({"small": {"protocol": "random-80-20", "rows": rows}})
    drawn = (tmp_path / "pictures" / "ablation.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("gnn", "hybrid", "− texts"))


def test_every_table_measures_the_hybrid_and_the_pieces_it_can_do_without():
    for table in ablation.TABLES:
        assert {"hybrid", "hybrid-without-network", "hybrid-without-texts"} <= set(table.models)
        assert ("hybrid-without-order" in table.models) == table.has_order
    assert ablation.names("hybrid") == ("hybrid", "distilled-64")


def test_rows_of_an_earlier_run_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(ablation.quality, "CACHE", tmp_path)
    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=lambda *_, **__: pytest.fail("measured anew")))
    table = ablation.TABLES[0]
    folder = ablation.quality._folder(table.cell(2), 2)
    folder.mkdir(parents=True)
    (folder / "gnn.json").write_text("{}")
    ablation.run(table, "gnn", 2, 1, kept=True)
