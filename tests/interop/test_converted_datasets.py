"""Datasets to RecTools, RecBole and PyTorch Geometric, and back."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import lanner
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError, DataError, StorageError
from lanner.interop import from_pyg, from_rectools, to_pyg, to_rectools, write_recbole


def events_of(dataset):
    """(user, item, time, weight) of each event, by external ids as texts."""
    events = dataset.interactions
    users = [dataset.users.external[row] for row in events.user]
    items = [dataset.items.external[row] for row in events.item]
    weights = [None] * len(events) if events.weight is None else events.weight.tolist()
    return sorted(zip(users, items, (events.timestamp // 1_000_000_000).tolist(), weights, strict=True))


def ties_of(dataset):
    ids = dataset.users.external
    pairs = zip(dataset.ties.row_of_value.tolist(), dataset.ties.values.tolist(), strict=True)
    return {(ids[one], ids[other]) for one, other in pairs}


# --- RecTools --------------------------------------------------------------------------------------------------------


def test_rectools_frames_have_its_columns_and_no_dislikes(data):
    pytest.importorskip("pandas")
    given = to_rectools(data)
    frame = given["interactions_df"]
    assert list(frame.columns) == ["user_id", "item_id", "weight", "datetime"]
    positive = data.interactions.confidence > 0
    assert len(frame) == positive.sum() < len(positive)
    assert frame["weight"].to_numpy() == pytest.approx(data.interactions.confidence[positive])
    genres = given["item_features_df"]
    assert set(genres["feature"]) == {"genres"}
    assert set(genres[genres["id"] == 103]["value"]) == {"Drama", "Horror"}
    assert 111 not in set(genres["id"]), "an item without events is unknown to RecTools"


def test_what_goes_to_rectools_comes_back(data):
    pytest.importorskip("pandas")
    back = from_rectools(to_rectools(data)["interactions_df"])
    positive = data.with_interactions(data.interactions.take(data.interactions.confidence > 0))
    assert [one[:3] for one in events_of(back)] == [one[:3] for one in events_of(positive)]
    assert back.user_ids == data.user_ids
    assert len(back.histories.values) == len(positive.interactions), "no weight is read as a dislike"
    with pytest.raises(ConfigError, match="expected a frame of interactions"):
        from_rectools("events")


def test_rectools_itself_takes_the_frames(data, tmp_path):
    """In a Python of its own, where ``RECTOOLS_PYTHON`` names one: RecTools needs an older NumPy."""
    python = os.environ.get("RECTOOLS_PYTHON") or (sys.executable if importlib.util.find_spec("rectools") else None)
    if python is None:
        pytest.skip("no Python with RecTools is named by RECTOOLS_PYTHON")
    given = to_rectools(data)
    frames = {name: one for name, one in given.items() if name.endswith("_df")}
    for name, one in frames.items():
        one.to_csv(tmp_path / f"{name}.csv", index=False)
    program = f"""
import pandas as pd
from rectools.dataset import Dataset
read = {{name: pd.read_csv(f"{tmp_path}/{{name}}.csv") for name in {list(frames)}}}
made = Dataset.construct(**read, cat_item_features={given["cat_item_features"]})
raw = made.get_raw_interactions()
print(len(raw), raw["user_id"].nunique(), raw["item_id"].nunique(), made.item_features.values.shape[1])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run([python, "-c", program], capture_output=True, text=True, env=environment)
    frame = given["interactions_df"]
    assert ran.stdout.split() == [
        str(len(frame)),
        str(frame["user_id"].nunique()),
        str(frame["item_id"].nunique()),
        "2",
    ], ran.stderr


# --- RecBole ---------------------------------------------------------------------------------------------------------


def test_atomic_files_are_read_as_what_was_written(data, tmp_path):
    back = lanner.load_dataset(write_recbole(data, tmp_path / "shop"))
    assert {one.name for one in (tmp_path / "shop").iterdir()} == {"shop.inter", "shop.item", "shop.net", "lanner.json"}
    assert events_of(back) == events_of(data)
    assert ties_of(back) == ties_of(data)
    row = back.items.row("103")
    assert back.item_catalogue.titles[row] == "Film <3>"
    assert sorted(back.item_catalogue.attributes_of(row)["genres"]) == ["Drama", "Horror"]
    header, first, *_ = (tmp_path / "shop" / "shop.inter").read_text().splitlines()
    assert header.split("\t") == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert first.split("\t") == ["0", "101", "1", "1600000000.000"]


def test_a_published_split_becomes_three_files(data, tmp_path):
    codes = (np.arange(len(data.interactions)) % 3).astype(np.uint8)
    parts = replace(data.interactions, partition=codes, partitions=("train", "validation", "test"))
    folder = write_recbole(data.with_interactions(parts), tmp_path / "shop")
    back = lanner.load_dataset(folder)
    assert {one.name for one in folder.glob("*.inter")} == {f"shop.{one}.inter" for one in ("train", "valid", "test")}
    sizes = lambda events: {name: int((events.partition == code).sum()) for code, name in enumerate(events.partitions)}
    assert sizes(back.interactions) == sizes(parts)


def test_what_atomic_files_cannot_hold_is_refused(data, tmp_path):
    titles = ("a\tb", *data.item_catalogue.titles[1:])
    with pytest.raises(DataError, match=r"'a\\tb' has a tab"):
        write_recbole(replace(data, item_catalogue=replace(data.item_catalogue, titles=titles)), tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(StorageError, match="something other than atomic files"):
        write_recbole(data, tmp_path / "mine")


# --- PyTorch Geometric -----------------------------------------------------------------------------------------------


def test_a_hetero_graph_is_valid_and_comes_back(data):
    pytest.importorskip("torch_geometric")
    graph = to_pyg(data)
    assert graph.validate()
    assert graph["user"].num_nodes == data.num_users
    assert graph["item", "has", "genres"].edge_index.shape[1] == len(
        data.item_catalogue.attributes["genres"].codes.values
    )
    back = from_pyg(graph)
    assert events_of(back) == events_of(data)
    assert ties_of(back) == ties_of(data)
    assert back.user_ids == data.user_ids
    for item in (101, 103, 110):
        row, before = (one.items.row(str(item)) for one in (back, data))
        assert back.item_catalogue.attributes_of(row) == data.item_catalogue.attributes_of(before)


def test_links_come_back_from_a_hetero_graph(data):
    pytest.importorskip("torch_geometric")
    lists = [[1, 2], *[[] for _ in range(data.num_items - 1)]]
    linked = replace(data, links=Ragged.from_lists(lists))
    back = from_pyg(to_pyg(linked))
    row = back.items.row(data.items.external[0])
    assert {back.items.external[one] for one in back.links[row]} == set(data.items.external[1:3])


def test_a_frame_of_items_takes_the_place_of_the_graphs_attributes(data, shop):
    pytest.importorskip("torch_geometric")
    with pytest.warns(UserWarning, match=r"^not read: 16 edges \('item', 'has', 'genres'\)$"):
        back = from_pyg(to_pyg(data), items=shop.items, text=["plot"])
    assert back.item_catalogue.titles[back.items.row("103")] == "Film <3>"
    assert back.item_catalogue.attributes == {}


def test_attributes_of_users_and_items_come_back_and_other_edges_are_counted():
    torch = pytest.importorskip("torch")
    hetero = pytest.importorskip("torch_geometric.data").HeteroData
    graph = hetero()
    graph["user"].num_nodes, graph["item"].num_nodes = 3, 2
    graph["user", "buys", "item"].edge_index = torch.tensor([[0, 1, 2, 2], [0, 1, 0, 1]])
    graph["colour"].num_nodes, graph["sex"].names = 3, ["F", "M"]
    graph["item", "has", "colour"].edge_index = torch.tensor([[0, 0], [2, 1]])
    graph["user", "has", "sex"].edge_index = torch.tensor([[0, 2], [1, 0]])
    graph["item", "beside", "item"].edge_index = torch.tensor([[0], [1]])
    with pytest.warns(UserWarning, match=r"^not read: 1 edges \('item', 'beside', 'item'\)$"):
        back = from_pyg(graph)
    assert sorted(back.item_catalogue.attributes_of(back.items.row("0"))["colour"]) == ["1", "2"]
    assert [back.user_catalogue.attributes_of(back.users.row(one))["sex"] for one in "012"] == [["M"], [], ["F"]]


def wrong(edges, change):
    torch = pytest.importorskip("torch")
    edges = edges.clone()
    if change == "negative":
        edges[1, 3] = -1
    elif change == "too high":
        edges[0, 2] = 24
    return edges[:1] if change == "one row" else edges.to(torch.float32) if change == "fractions" else edges


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("negative", r"index -1 is none of the {other} nodes '{to}' \(0 … {last}\)"),
        ("too high", r"index 24 is none of the {one} nodes '{by}'"),
        ("one row", r"edge_index must be integers \[2, n\], received int64 \[1, "),
        ("fractions", r"edge_index must be integers \[2, n\], received float32 \[2, "),
    ],
)
@pytest.mark.parametrize("kind", [("user", "event", "item"), ("user", "knows", "user"), ("item", "has", "genres")])
def test_an_edge_without_its_nodes_is_refused(data, kind, change, said):
    pytest.importorskip("torch_geometric")
    graph = to_pyg(data)
    if kind[1] == "event":
        kind = next(one for one in graph.edge_types if one[0] == "user" and one[2] == "item")
    graph[kind].edge_index = wrong(graph[kind].edge_index, change)
    one, other = (
        graph[node].num_nodes if "num_nodes" in graph[node] else len(graph[node].names) for node in (kind[0], kind[2])
    )
    with pytest.raises(DataError) as refused:
        from_pyg(graph)
    assert str(refused.value).startswith(f"edges {kind}: ")
    assert re.search(said.format(one=one, other=other, by=kind[0], to=kind[2], last=other - 1), str(refused.value))


def test_times_of_another_number_than_edges_are_refused(data):
    pytest.importorskip("torch_geometric")
    graph = to_pyg(data)
    kind = next(one for one in graph.edge_types if one[0] == "user" and one[2] == "item")
    graph[kind].time = graph[kind].time[:-1]
    events = len(data.interactions)
    with pytest.raises(DataError, match=rf"{events} edges, but 'time' has {events - 1} values"):
        from_pyg(graph)
    with pytest.raises(ConfigError, match="expected a HeteroData, received Dataset"):
        from_pyg(data)


def test_each_behaviour_is_a_type_of_edges(shop):
    pytest.importorskip("torch_geometric")
    kinds = ["view", "buy"] * (shop.events.height // 2) + ["view"] * (shop.events.height % 2)
    dataset = lanner.Dataset.from_frames(shop.events.with_columns(event=pl.Series(kinds)), time="ts")
    graph = to_pyg(dataset)
    assert {one[1] for one in graph.edge_types} == {"view", "buy"}
    back = from_pyg(graph)
    counts = lambda one: dict(
        zip(one.interactions.behaviours, np.bincount(one.interactions.behaviour).tolist(), strict=True)
    )
    assert counts(back) == counts(dataset)
    with pytest.raises(DataError, match="no edges from 'user' to 'film'"):
        from_pyg(graph, item="film")
