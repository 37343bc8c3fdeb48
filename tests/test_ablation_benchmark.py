"""``benchmarks.ablation``: ablated parts are gone, and the figure shows what was measured."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from stand_ins import small_world

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import ablation
from benchmarks._protocols import split_of
from lanner.config import SplitConfig
from lanner.data.catalogue import Attribute
from lanner.data.ragged import Ragged
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
    assert "friends" in neural.item_relations(split.train)
    changed = ablation.without("friends", split)
    assert changed.train.ties is None
    assert "friends" not in neural.item_relations(changed.train)
    assert not ablation.without("order", split).train.has_order


def test_a_relation_is_gone_from_the_relational_view_alone():
    split = split_of_small_world()
    names = set(neural.item_relations(split.train))
    assert "interaction" in names
    changed = ablation.without("interaction", split)
    assert set(neural.item_relations(changed.train)) == names - {"interaction"}
    assert len(changed.train.interactions) == len(split.train.interactions)


def split_with_attributes():
    """Every user has a city and a job, which are values 0 … 2 and 3 … 4 of the catalogue."""
    world = small_world()
    cities, jobs = (
        Attribute(tuple(f"{name}{code}" for code in range(number)), Ragged.from_lists([[row % number] for row in rows]))
        for rows in (range(world.num_users),)
        for name, number in (("city", 3), ("job", 2))
    )
    people = replace(world.user_catalogue, attributes={"city": cities, "job": jobs})
    return random_ratio(replace(world, user_catalogue=people), 0.2, 0.2)


def test_an_attribute_of_users_is_gone_from_held_out_users_and_the_others_are_numbered_anew():
    split = split_with_attributes()
    for held_out in (split.validation, split.test):
        assert held_out.users.attributes.values.max() == 4
    changed = ablation.without("city", split)
    for held_out in (changed.validation, changed.test):
        values = held_out.users.attributes
        assert [values[place].tolist() for place in range(len(held_out))] == [[row % 2] for row in held_out.rows]
        assert values.values.max() < len(changed.train.user_catalogue.kinds)
    both = ablation.without("job", changed)
    assert both.test.users.attributes is None
    found = [list(neural.item_relations(one.train)) for one in (split, changed, both)]
    assert found == [["interaction", "friends", *rest] for rest in (["city", "job"], ["job"], [])]


def test_items_keep_an_attribute_of_the_same_name():
    split = split_with_attributes()
    items = split.train.num_items
    cities = Attribute(("a", "b"), Ragged.from_lists([[row % 2] for row in range(items)]))
    train = replace(split.train, item_catalogue=replace(split.train.item_catalogue, attributes={"city": cities}))
    changed = ablation.without("city", replace(split, train=train))
    assert list(neural.item_relations(changed.train)) == ["interaction", "city", "friends", "job"]


def test_friends_are_gone_from_held_out_users():
    split = split_of_small_world()
    assert split.test.users.friends is not None
    assert ablation.without("friends", split).test.users.friends is None


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
        assert {"gnn", "hybrid", "hybrid-without-network"} <= set(table.models)
        assert ("hybrid-without-order" in table.models) == table.has_order
        assert {one in table.models for one in ("language", "fusion", "hybrid-without-texts")} == {table.has_texts}
        assert ("distilled-64" in table.names("hybrid")) == table.is_distilled


def test_held_out_customers_have_no_event_in_training():
    world = small_world()
    split = split_of(world, "insurance", SplitConfig(seed=1))
    events = world.interactions
    for part, held_out in ((1, split.validation), (2, split.test)):
        assert set(events.user[split.labels == part]) == set(held_out.rows)
        assert not any(len(split.train.histories[row]) for row in held_out.rows)
    assert len(split.refit.interactions) == (split.labels < 2).sum()


def test_rows_of_an_earlier_run_are_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(ablation.quality, "CACHE", tmp_path)
    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=lambda *_, **__: pytest.fail("measured anew")))
    table = ablation.TABLES[0]
    folder = ablation.quality._folder(table.cell(2), 2)
    folder.mkdir(parents=True)
    (folder / "gnn.json").write_text("{}")
    ablation.run(table, "gnn", 2, 1, kept=True)
