"""Datasets to and from PyTorch Geometric's ``HeteroData``.

Source: https://pytorch-geometric.readthedocs.io/en/latest/generated/torch_geometric.data.HeteroData.html.
"""

import warnings
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError, DataError, optional_module

USER, ITEM, FRIENDS, RELATED, HAS = "user", "item", "knows", "related to", "has"


def to_pyg(dataset: Dataset) -> Any:
    """A ``HeteroData``: nodes are users, items and the values of attributes.

    Edges user → item, one type per behaviour, with ``time`` (int64, ns since 1970) and ``rating`` (float32) if events
    have them, and ``confidence``. Edges (user, knows, user) are friends; (item, related to, item) links; (item, has,
    genres) the values of each item. ``data["user"].ids`` and ``data["item"].ids`` are lists of external ids,
    ``data["genres"].names`` of values.

    Raises:
        MissingExtraError: PyTorch Geometric is not installed.
    """
    torch = optional_module("torch", "torch", "pyg", "HeteroData")
    data = optional_module("torch_geometric.data", "torch_geometric", "pyg", "HeteroData").HeteroData()
    events = dataset.interactions
    for kind, ids in ((USER, dataset.user_ids), (ITEM, dataset.item_ids)):
        data[kind].num_nodes, data[kind].ids = len(ids), ids
    codes = np.zeros(len(events), np.uint8) if events.behaviour is None else events.behaviour
    optional = {"time": events.timestamp, "rating": events.weight, "confidence": events.confidence}
    for code, behaviour in enumerate(events.behaviours):
        mine = codes == code
        edges = data[USER, behaviour, ITEM]
        edges.edge_index = torch.from_numpy(np.stack([events.user[mine], events.item[mine]]).astype(np.int64))
        for name, column in optional.items():
            if column is not None:
                edges[name] = torch.from_numpy(column[mine])
    for between, lists in (((USER, FRIENDS, USER), dataset.ties), ((ITEM, RELATED, ITEM), dataset.links)):
        if lists is not None:
            data[between].edge_index = _edges(torch, lists)
    for kind, catalogue in ((USER, dataset.user_catalogue), (ITEM, dataset.item_catalogue)):
        for name, attribute in catalogue.attributes.items():
            if name in (USER, ITEM):
                raise DataError("an attribute of that name would be taken for nodes; rename it", field=name)
            data[name].num_nodes, data[name].names = len(attribute.names), list(attribute.names)
            data[kind, HAS, name].edge_index = _edges(torch, attribute.codes)
    return data


def from_pyg(data: Any, *, user: str = USER, item: str = ITEM, **named: Any) -> Dataset:
    """A dataset from a ``HeteroData``: each edge type from ``user`` to ``item`` is a behaviour.

    Edges (user, knows, user) become friends, (item, related to, item) links, and (item, has, genres) or (user, has,
    sex) attributes, unless ``items`` or ``users`` brings a frame of its own. Edges of other types are not read; a
    ``UserWarning`` counts them.

    Args:
        data: with ``edge_index``, and ``time`` and ``rating`` if any; node ``ids`` (of attributes: ``names``), else
            their indices.
        user, item: names of the node types.
        named: as in ``Dataset.from_frames``, such as ``items`` with titles and texts by ``item_id``.

    Raises:
        ConfigError: ``data`` is no ``HeteroData``.
        DataError: no edges from users to items, an edge to a node that does not exist, times or ratings of another
            number than edges, or as for ``Dataset.from_frames``.
    """
    if not hasattr(data, "edge_types"):
        raise ConfigError(f"expected a HeteroData, received {type(data).__name__}")
    types = [one for one in data.edge_types if one[0] == user and one[2] == item]
    if not types:
        raise DataError(f"no edges from '{user}' to '{item}'; there are {', '.join(map(str, data.edge_types))}")
    users, items = (_names(data, kind, "ids") for kind in (user, item))
    events = pl.concat([_events(data, kind, users, items) for kind in types], how="diagonal")
    given: dict[str, Any] = {"user": "user_id", "item": "item_id"}
    given |= {role: role for role in ("time", "rating") if role in events.columns}
    given |= {"behaviour": "behaviour"} if len(types) > 1 else {}
    read = set(types)
    for edges, role, ids in (((user, FRIENDS, user), "ties", users), ((item, RELATED, item), "links", items)):
        if edges in data.edge_types:
            one, other = _ends(data, edges, ids, ids)
            given[role] = pl.DataFrame({f"{USER if role == 'ties' else ITEM}_id": one, "other": other})
            read.add(edges)
    for kind, role, ids in ((item, "items", items), (user, "users", users)):
        found = [] if role in named or "attributes" in named else _attributes_of(data, kind)
        if found:
            given[role] = pl.DataFrame({f"{role[:-1]}_id": ids, **{one[2]: _lists(data, one, ids) for one in found}})
            given["attributes"] = [*given.get("attributes", ()), *(one[2] for one in found)]
            read |= set(found)
    if left := [f"{data[one].num_edges:,} edges {one}" for one in data.edge_types if one not in read]:
        warnings.warn(f"not read: {', '.join(left)}", UserWarning, stacklevel=2)
    return Dataset.from_frames(events, **{**given, **named})


def _events(data: Any, kind: tuple[str, str, str], users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """The edges of one type as events."""
    one, other = _ends(data, kind, users, items)
    columns = {"user_id": one, "item_id": other}
    for name in ("time", "rating"):
        if name in data[kind]:
            column = pl.Series(data[kind][name].numpy())
            if len(column) != len(one):
                raise DataError(f"edges {kind}: {len(one)} edges, but '{name}' has {len(column)} values")
            columns[name] = column
    return pl.DataFrame(columns).with_columns(behaviour=pl.lit(kind[1]))


def _ends(data: Any, kind: tuple[str, str, str], from_ids: pl.Series, to_ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The ids at both ends of each edge; raises ``DataError`` for an edge to a node that does not exist."""
    one, other = _indices(data, kind, len(from_ids), len(to_ids))
    return from_ids.gather(one), to_ids.gather(other)


def _indices(data: Any, kind: tuple[str, str, str], num_from: int, num_to: int) -> NDArray[np.int64]:
    """``edge_index``, int64 ``[2, n]``, every index that of a node."""
    if "edge_index" not in data[kind]:
        raise DataError(f"edges {kind} have no edge_index")
    edges: NDArray[np.int64] = data[kind].edge_index.numpy()
    if edges.ndim != 2 or len(edges) != 2 or edges.dtype.kind not in "iu":
        raise DataError(f"edges {kind}: edge_index must be integers [2, n], received {edges.dtype} {list(edges.shape)}")
    for row, count, node in zip(edges, (num_from, num_to), (kind[0], kind[2]), strict=True):
        if len(wrong := row[(row < 0) | (row >= count)]):
            raise DataError(f"edges {kind}: index {wrong[0]} is none of the {count} nodes '{node}' (0 … {count - 1})")
    return edges


def _attributes_of(data: Any, kind: str) -> list[tuple[str, str, str]]:
    return [one for one in data.edge_types if one[:2] == (kind, HAS)]


def _lists(data: Any, kind: tuple[str, str, str], ids: pl.Series) -> list[list[str]]:
    """The values that each node has."""
    names = _names(data, kind[2], "names").cast(pl.String).to_list()
    found: list[list[str]] = [[] for _ in ids]
    for node, value in _indices(data, kind, len(ids), len(names)).T.tolist():
        found[node].append(names[value])
    return found


def _edges(torch: Any, lists: Ragged) -> Any:
    """The lists as edges, int64 ``[2, n]``."""
    return torch.from_numpy(np.stack([lists.row_of_value, lists.values]).astype(np.int64))


def _names(data: Any, kind: str, field: str) -> pl.Series:
    """Ids or names of nodes, else their indices; raises ``DataError`` if even their number is unknown."""
    nodes = data[kind]
    if field in nodes:
        return pl.Series(nodes[field])
    if nodes.num_nodes is None:
        raise DataError(f"nodes '{kind}' have neither {field} nor num_nodes")
    return pl.Series(range(nodes.num_nodes))
