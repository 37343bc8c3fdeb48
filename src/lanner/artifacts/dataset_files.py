"""A dataset as files of a bundle: Parquet for tables, safetensors for lists of rows."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load, save

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdKind, IdMap
from lanner.data.interactions import EVENT_COLUMNS, Dataset, Interactions
from lanner.data.ragged import Ragged

FILES = ("events.parquet", "users.parquet", "items.parquet", "attributes.parquet", "lists.safetensors")
_FITTED = "fitted"
_SIDES = ("user", "item")


def pack_dataset(dataset: Dataset, fitted: NDArray[np.bool_]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Bytes by file name, and the manifest entries.

    ``fitted`` ``[E]`` marks the events that the model was fitted on.
    """
    events = dataset.interactions
    columns = {name: getattr(events, name) for name in EVENT_COLUMNS if getattr(events, name) is not None}
    files = {
        "events.parquet": _parquet(pl.DataFrame({**columns, _FITTED: fitted})),
        "users.parquet": _parquet(_catalogue_table(dataset.users, dataset.user_catalogue)),
        "items.parquet": _parquet(_catalogue_table(dataset.items, dataset.item_catalogue)),
        "attributes.parquet": _parquet(_attribute_table(dataset)),
        "lists.safetensors": save(_lists(dataset)),
    }
    facts = {
        "has_order": dataset.has_order,
        "has_ties": dataset.ties is not None,
        "has_links": dataset.links is not None,
        "behaviours": list(events.behaviours),
        "partitions": list(events.partitions),
        "attributes": {
            side: {name: list(one.edges) for name, one in _catalogue(dataset, side).attributes.items()}
            for side in _SIDES
        },
        "rejected": dict(dataset.rejected),
        "id_kinds": {side: _ids(dataset, side).kind for side in _SIDES},
    }
    return files, facts


def unpack_dataset(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> tuple[Dataset, NDArray[np.bool_]]:
    """The inverse of ``pack_dataset``."""
    table = pl.read_parquet(io.BytesIO(files["events.parquet"]))
    columns = {name: table[name].to_numpy(writable=True) for name in EVENT_COLUMNS if name in table.columns}
    interactions = Interactions(**columns, behaviours=tuple(facts["behaviours"]), partitions=tuple(facts["partitions"]))
    values = pl.read_parquet(io.BytesIO(files["attributes.parquet"]))
    lists = load(files["lists.safetensors"])
    kinds = facts.get("id_kinds", {})
    people = {
        side: _read_catalogue(
            side, files[f"{side}s.parquet"], values, lists, facts["attributes"][side], kinds.get(side, "str")
        )
        for side in _SIDES
    }
    dataset = Dataset(
        interactions=interactions,
        users=people["user"][0],
        items=people["item"][0],
        user_catalogue=people["user"][1],
        item_catalogue=people["item"][1],
        ties=_ragged(lists, "ties") if facts["has_ties"] else None,
        links=_ragged(lists, "links") if facts.get("has_links") else None,
        rejected=dict(facts["rejected"]),
        has_order=facts["has_order"],
    )
    return dataset, table[_FITTED].to_numpy()


def _ids(dataset: Dataset, side: str) -> IdMap:
    return dataset.users if side == "user" else dataset.items


def _catalogue(dataset: Dataset, side: str) -> Catalogue:
    return dataset.user_catalogue if side == "user" else dataset.item_catalogue


def _catalogue_table(ids: IdMap, catalogue: Catalogue) -> pl.DataFrame:
    columns = {"id": ids.external, "title": catalogue.titles, "text": catalogue.texts}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _attribute_table(dataset: Dataset) -> pl.DataFrame:
    """Every value of every attribute, in the order of its codes."""
    rows = [
        (side, name, value)
        for side in _SIDES
        for name, attribute in _catalogue(dataset, side).attributes.items()
        for value in attribute.names
    ]
    return pl.DataFrame(rows, schema={"side": pl.String, "attribute": pl.String, "value": pl.String}, orient="row")


def _lists(dataset: Dataset) -> dict[str, NDArray[Any]]:
    edges = {"ties": dataset.ties, "links": dataset.links}
    found = {name: one for name, one in edges.items() if one is not None}
    for side in _SIDES:
        for name, attribute in _catalogue(dataset, side).attributes.items():
            found[f"{side}.{name}"] = attribute.codes
    arrays: dict[str, NDArray[Any]] = {}
    for name, one in found.items():
        arrays[f"{name}.indptr"] = np.ascontiguousarray(one.indptr)
        arrays[f"{name}.values"] = np.ascontiguousarray(one.values)
    return arrays


def _read_catalogue(
    side: str,
    content: bytes,
    values: pl.DataFrame,
    lists: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, list[float]],
    kind: IdKind,
) -> tuple[IdMap, Catalogue]:
    table = pl.read_parquet(io.BytesIO(content))
    mine = values.filter(pl.col("side") == side)
    named = {
        name: Attribute(
            tuple(mine.filter(pl.col("attribute") == name)["value"].to_list()),
            _ragged(lists, f"{side}.{name}"),
            tuple(edges),
        )
        for name, edges in attributes.items()
    }
    catalogue = Catalogue(tuple(table["text"].to_list()), tuple(table["title"].to_list()), named)
    return IdMap(table["id"].to_list(), kind, of=side), catalogue


def _ragged(lists: Mapping[str, NDArray[Any]], name: str) -> Ragged:
    return Ragged(lists[f"{name}.indptr"], lists[f"{name}.values"])


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()
