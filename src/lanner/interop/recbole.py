"""Datasets to RecBole, as atomic files; ``lanner.load_dataset(folder)`` reads such files.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset
from lanner.errors import DataError
from lanner.files import FolderKind, write_folder

FACTS = "lanner.json"
_KIND = FolderKind("atomic files", FACTS, lambda content: (FACTS, *content["files"]))
_PARTS = {"train": "train", "validation": "valid", "test": "test"}
"""RecBole's name of each part of a split."""


def write_recbole(dataset: Dataset, folder: Path | str) -> Path:
    """Write ``NAME.inter``, ``.item``, ``.user`` and ``.net`` (social edges); NAME is the folder's, as RecBole expects.

    The rating is the event's weight, the timestamp in seconds. A published split becomes three ``.inter`` files. Titles
    and attributes are included, texts are not. In lists of values ``_`` replaces spaces, which would separate values.

    Raises:
        DataError: a cell has a tab or a line break. StorageError: writing failed, or something else is there.
    """
    folder = Path(folder)
    name = folder.name
    files = _events(dataset, name)
    files[f"{name}.item"] = _entities("item", dataset.items, dataset.item_catalogue)
    if dataset.user_catalogue.attributes:
        files[f"{name}.user"] = _entities("user", dataset.users, dataset.user_catalogue)
    if dataset.ties is not None:
        friends = zip(dataset.ties.row_of_value.tolist(), dataset.ties.values.tolist(), strict=True)
        external = dataset.users.external
        rows = [(external[user], external[friend]) for user, friend in friends]
        files[f"{name}.net"] = _table(("source_id:token", "target_id:token"), rows)
    facts = json.dumps({"files": list(files)}, indent=1).encode()
    write_folder(folder, {**files, FACTS: facts}, kind=_KIND)
    return folder


def _events(dataset: Dataset, name: str) -> dict[str, bytes]:
    """One file, or one per part of the published split."""
    events = dataset.interactions
    columns: dict[str, list[Any]] = {
        "user_id:token": [dataset.users.external[row] for row in events.user.tolist()],
        "item_id:token": [dataset.items.external[row] for row in events.item.tolist()],
    }
    if events.weight is not None:
        columns["rating:float"] = [f"{one:g}" for one in np.nan_to_num(events.weight, nan=1.0).tolist()]
    if events.timestamp is not None:
        columns["timestamp:float"] = [f"{one / 1e9:.3f}" for one in events.timestamp.tolist()]
    rows = list(zip(*columns.values(), strict=True))
    if events.partition is None or not {"train", "test"} <= set(events.partitions):
        return {f"{name}.inter": _table(columns, rows)}
    parts = [events.partitions[code] for code in events.partition.tolist()]
    return {
        f"{name}.{theirs}.inter": _table(columns, [row for row, one in zip(rows, parts, strict=True) if one == part])
        for part, theirs in _PARTS.items()
        if part in events.partitions
    }


def _entities(side: str, ids: IdMap, catalogue: Catalogue) -> bytes:
    columns = {f"{side}_id:token": list(ids.external)}
    if side == "item":
        columns["title:token"] = list(catalogue.titles)
    for name, attribute in catalogue.attributes.items():
        several = bool((np.diff(attribute.codes.indptr) > 1).any())
        columns[f"{name}:token{'_seq' if several else ''}"] = _cells(attribute, several=several)
    return _table(columns, list(zip(*columns.values(), strict=True)))


def _cells(attribute: Attribute, *, several: bool) -> list[str]:
    names = [name.replace(" ", "_") for name in attribute.names] if several else attribute.names
    return [" ".join(names[code] for code in attribute.codes[row].tolist()) for row in range(len(attribute.codes))]


def _table(columns: Any, rows: list[Any]) -> bytes:
    """Tab-separated cells; raises ``DataError`` for a cell with a tab or a line break."""
    for row in rows:
        for cell in row:
            if any(mark in cell for mark in "\t\n\r"):
                raise DataError(f"{cell!r} has a tab or a line break, which atomic files cannot hold")
    return "\n".join("\t".join(row) for row in ((*columns,), *rows)).encode() + b"\n"
