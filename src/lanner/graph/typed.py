"""The typed graph: users, items and attribute values, and every way they are tied."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.errors import MissingExtraError
from lanner.graph.adjacency import Adjacency
from lanner.types import ITEM, USER

EdgeType = tuple[str, str, str]
TIED_TO = "tied_to"
SIMILAR = "similar"


def has(attribute: str) -> str:
    """Name of the relation between an item and its values of ``attribute``."""
    return f"has_{attribute}"


@dataclass(frozen=True, eq=False)
class TypedGraph:
    """Node counts by node type, and an adjacency for each edge type.

    ``edges[(source, relation, destination)]`` has the sources as rows and the destinations as columns, each edge once:
    ``propagate(edges[(user, "purchase", item)], item_features)`` sums over the items of each user, and the same with
    ``.transposed`` over the users of each item.
    """

    num_nodes: dict[str, int]
    edges: dict[EdgeType, Adjacency]

    def to_pyg(self) -> Any:
        """The same graph as a ``torch_geometric.data.HeteroData``: ``edge_index`` int64 ``[2, E]``, ``edge_weight``.

        Raises:
            MissingExtraError: ``torch_geometric`` is not installed.
        """
        try:
            from torch_geometric.data import HeteroData
        except ImportError:
            raise MissingExtraError("torch_geometric", "pyg", "to_pyg()") from None
        import torch

        data = HeteroData()
        for node_type, count in self.num_nodes.items():
            data[node_type].num_nodes = count
        for edge_type, adjacency in self.edges.items():
            pairs = np.stack([adjacency.row_of_edge, adjacency.indices]).astype(np.int64)
            data[edge_type].edge_index = torch.from_numpy(pairs)
            if adjacency.values is not None:
                data[edge_type].edge_weight = torch.from_numpy(adjacency.values)
        return data


def build_graph(dataset: Dataset, similar: Adjacency | None = None) -> TypedGraph:
    """Every tie that ``dataset`` knows, as edge types.

    (user, <behaviour>, item) for each behaviour; (user, tied_to, user) where the source has ties;
    (item, has_<attribute>, <attribute>) for each item attribute, whose values become nodes; (item, similar, item) from
    ``similar`` ``[I, I]``, as made by ``co_occurrence_neighbours`` or ``text_neighbours``. Repeated events
    make one edge.

    Raises:
        ValueError: an attribute is called ``user`` or ``item``, or ``similar`` has another shape.
    """
    attributes = dataset.item_catalogue.attributes
    if clash := {USER, ITEM} & set(attributes):
        raise ValueError(f"the item attribute '{clash.pop()}' has the name of a node type; rename it")
    num_nodes = {USER: dataset.num_users, ITEM: dataset.num_items}
    edges = _interaction_edges(dataset)
    if dataset.ties is not None:
        ties = dataset.ties
        edges[(USER, TIED_TO, USER)] = distinct_edges(ties.row_of_value, ties.values, (len(ties), dataset.num_users))
    for name, attribute in attributes.items():
        codes, num_nodes[name] = attribute.codes, len(attribute.names)
        edges[(ITEM, has(name), name)] = distinct_edges(codes.row_of_value, codes.values, (len(codes), num_nodes[name]))
    if similar is not None:
        if similar.shape != (dataset.num_items, dataset.num_items):
            raise ValueError(f"similar items of shape {similar.shape} do not fit {dataset.num_items} items")
        edges[(ITEM, SIMILAR, ITEM)] = similar
    return TypedGraph(num_nodes, edges)


def _interaction_edges(dataset: Dataset) -> dict[EdgeType, Adjacency]:
    events, shape = dataset.interactions, (dataset.num_users, dataset.num_items)
    if events.behaviour is None or len(events.behaviours) == 1:
        return {(USER, events.behaviours[0], ITEM): distinct_edges(events.user, events.item, shape)}
    edges: dict[EdgeType, Adjacency] = {}
    for code, name in enumerate(events.behaviours):
        chosen = np.flatnonzero(events.behaviour == code)
        edges[(USER, name, ITEM)] = distinct_edges(events.user[chosen], events.item[chosen], shape)
    return edges


def distinct_edges(
    rows: NDArray[np.integer[Any]], columns: NDArray[np.integer[Any]], shape: tuple[int, int]
) -> Adjacency:
    """The adjacency that holds each pair (row, column) once, columns rising inside a row.

    Two counting sorts, the second being the transposition of the first: linear in the number of pairs.
    """
    by_column = Adjacency(*_grouped(columns, rows, shape[1]), None, (shape[1], shape[0]))
    return _without_repeats(by_column.transposed)


def _grouped(
    keys: NDArray[np.integer[Any]], values: NDArray[np.integer[Any]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    ragged = Ragged.from_pairs(keys, values, count)
    return ragged.indptr, ragged.values


def _without_repeats(adjacency: Adjacency) -> Adjacency:
    indptr, indices = adjacency.indptr, adjacency.indices
    first = np.ones(len(indices), np.bool_)
    np.not_equal(indices[1:], indices[:-1], out=first[1:])
    # The first edge of a row is new even where the row before ended with the same column.
    first[indptr[:-1][adjacency.row_degrees > 0]] = True
    if first.all():
        return adjacency
    kept = np.concatenate([[0], np.cumsum(first)])
    return Adjacency(kept[indptr], indices[first], None, adjacency.shape)
