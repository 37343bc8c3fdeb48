"""Datasets to and from PyTorch Geometric's ``HeteroData``.

Source: https://pytorch-geometric.readthedocs.io/en/latest/generated/torch_geometric.data.HeteroData.html.
"""

from typing import Any

import numpy as np
import polars as pl

from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.errors import DataError, optional_module

USER, ITEM, FRIENDS = "user", "item", "knows"


def to_pyg(dataset: Dataset) -> Any:
    """A ``HeteroData``: nodes are users, items and the values of attributes.

    Edges user → item, one type per behaviour, with ``time`` (int64, ns since 1970) and ``rating`` (float32) if events
    have them, and ``confidence``. Edges (user, knows, user) are friends; (item, has, genres) the values of
    each item. ``data["user"].ids`` and ``data["item"].ids`` are lists of external ids, ``data["genres"].names``
    of values.

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
    if dataset.ties is not None:
        data[USER, FRIENDS, USER].edge_index = _edges(torch, dataset.ties)
    for kind, catalogue in ((USER, dataset.user_catalogue), (ITEM, dataset.item_catalogue)):
        for name, attribute in catalogue.attributes.items():
            if name in (USER, ITEM):
                raise DataError("an attribute of that name would be taken for nodes; rename it", field=name)
            data[name].num_nodes, data[name].names = len(attribute.names), list(attribute.names)
            data[kind, "has", name].edge_index = _edges(torch, attribute.codes)
    return data


def from_pyg(data: Any, *, user: str = USER, item: str = ITEM, **named: Any) -> Dataset:
    """A dataset from a ``HeteroData``: each edge type from ``user`` to ``item`` is a behaviour.

    Args:
        data: with ``edge_index``, and ``time`` and ``rating`` if any; node ``ids``, else their indices.
        user, item: names of the node types.
        named: as in ``Dataset.from_frames``, such as ``items`` with titles and texts by ``item_id``.

    Raises:
        DataError: no edges from users to items, or as for ``Dataset.from_frames``.
    """
    types = [one for one in data.edge_types if one[0] == user and one[2] == item]
    if not types:
        raise DataError(f"no edges from '{user}' to '{item}'; there are {', '.join(map(str, data.edge_types))}")
    users, items = (_ids(data[kind]) for kind in (user, item))
    frames = []
    for kind in types:
        rows = data[kind].edge_index.numpy()
        columns = {"user_id": users.gather(rows[0]), "item_id": items.gather(rows[1])}
        columns |= {name: pl.Series(data[kind][name].numpy()) for name in ("time", "rating") if name in data[kind]}
        frames.append(pl.DataFrame(columns).with_columns(behaviour=pl.lit(kind[1])))
    events = pl.concat(frames, how="diagonal")
    roles: dict[str, Any] = {role: role for role in ("time", "rating") if role in events.columns}
    roles |= {"behaviour": "behaviour"} if len(types) > 1 else {}
    ties = None
    if (user, FRIENDS, user) in data.edge_types:
        one, other = data[user, FRIENDS, user].edge_index.numpy()
        ties = pl.DataFrame({"user_id": users.gather(one), "friend": users.gather(other)})
    return Dataset.from_frames(events, ties=ties, **{"user": "user_id", "item": "item_id", **roles, **named})


def _edges(torch: Any, lists: Ragged) -> Any:
    """The lists as edges, int64 ``[2, n]``."""
    return torch.from_numpy(np.stack([lists.row_of_value, lists.values]).astype(np.int64))


def _ids(nodes: Any) -> pl.Series:
    return pl.Series(nodes.ids if "ids" in nodes else range(nodes.num_nodes))
