import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.errors import MissingExtraError
from lanner.graph.adjacency import Adjacency
from lanner.graph.neighbours import co_occurrence_neighbours
from lanner.graph.typed import build_graph, distinct_edges


def small_dataset(attribute: str = "genre") -> Dataset:
    events = Interactions(
        user=np.array([2, 0, 0, 2, 0, 1], np.int32),
        item=np.array([1, 1, 0, 1, 1, 3], np.int32),
        behaviour=np.array([0, 0, 0, 0, 1, 1], np.uint8),
        behaviours=("view", "purchase"),
    )
    genres = Attribute(("drama", "comedy"), Ragged.from_lists([[0], [0, 1], [], [1]]))
    items = Catalogue(texts=("",) * 4, titles=tuple("abcd"), attributes={attribute: genres})
    ties = Ragged.from_lists([[2, 1, 2], [], [0]])
    users = Catalogue.blank(tuple("xyz"))
    return Dataset(events, IdMap(list("xyz")), IdMap(list("abcd")), items, users, ties)


def pairs(adjacency: Adjacency) -> list[tuple[int, int]]:
    return list(zip(adjacency.row_of_edge.tolist(), adjacency.indices.tolist(), strict=True))


def test_every_tie_of_the_dataset_becomes_an_edge_type():
    dataset = small_dataset()
    views = build_graph(dataset).edges[("user", "view", "item")]
    graph = build_graph(dataset, similar=co_occurrence_neighbours(views, k=2))
    assert graph.num_nodes == {"user": 3, "item": 4, "genre": 2}
    assert {edge_type: pairs(adjacency) for edge_type, adjacency in graph.edges.items()} == {
        ("user", "view", "item"): [(0, 0), (0, 1), (2, 1)],  # user 2 viewed item 1 twice: one edge
        ("user", "purchase", "item"): [(0, 1), (1, 3)],
        ("user", "tied_to", "user"): [(0, 1), (0, 2), (2, 0)],
        ("item", "has_genre", "genre"): [(0, 0), (1, 0), (1, 1), (3, 1)],
        ("item", "similar", "item"): [(0, 1), (1, 0)],
    }


def test_distinct_edges_are_those_of_a_set():
    draw = np.random.default_rng(0)
    rows, columns = draw.integers(0, 30, 2000), draw.integers(0, 20, 2000)
    adjacency = distinct_edges(rows, columns, (30, 20))
    assert pairs(adjacency) == sorted(set(zip(rows.tolist(), columns.tolist(), strict=True)))
    assert_array_equal(adjacency.transposed.dense(), adjacency.dense().T)
    assert distinct_edges(rows[:0], columns[:0], (30, 20)).num_edges == 0


def test_an_attribute_called_like_a_node_type_and_similar_items_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="'user' has the name of a node type"):
        build_graph(small_dataset("user"))
    with pytest.raises(ValueError, match="do not fit 4 items"):
        build_graph(small_dataset(), similar=Adjacency.from_ragged(Ragged.empty(3), 3))


def test_to_pyg_and_back():
    pytest.importorskip("torch_geometric", reason="the extra 'pyg' is not installed")
    dataset = small_dataset()
    views = build_graph(dataset).edges[("user", "view", "item")]
    graph = build_graph(dataset, similar=co_occurrence_neighbours(views, k=2))
    data = graph.to_pyg()
    data.validate()
    assert {node_type: data[node_type].num_nodes for node_type in data.node_types} == graph.num_nodes
    assert set(data.edge_types) == set(graph.edges)
    for edge_type, adjacency in graph.edges.items():
        rows, columns = data[edge_type].edge_index.numpy()
        assert pairs(distinct_edges(rows, columns, adjacency.shape)) == pairs(adjacency)
    assert_array_equal(data["item", "similar", "item"].edge_weight, graph.edges[("item", "similar", "item")].values)


def test_without_torch_geometric_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[pyg\]'"):
        build_graph(small_dataset()).to_pyg()
