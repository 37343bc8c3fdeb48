"""RecBole's atomic files: ``.inter``, ``.item``, ``.user`` and ``.net``, tab-separated, with typed column names.

Interactions are one file, or a published split of three: ``name.train.inter``, ``.valid.inter`` and ``.test.inter``.

Source: https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lanner.data.sources.files import Layout, header
from lanner.data.sources.mapping import EntityColumns, InteractionColumns, SourceMapping, TieColumns, read_mapping
from lanner.data.tables import Entities, Tables
from lanner.errors import DataError

_LAYOUT = Layout("\t", quote=False)
_TITLES = ("title", "name", "movie_title", "item_name")
_REQUIRED_NAMES = ("user_id", "item_id")


def detect(folder: Path) -> bool:
    """Whether the folder holds the ``.inter`` file, or the split, of exactly one dataset."""
    return folder.is_dir() and len({path.name.split(".")[0] for path in folder.glob("*.inter")}) == 1


def read(folder: Path) -> Tables:
    """Interactions with rating and time where given; token fields of items and users as attributes; ties."""
    events = sorted(folder.glob("*.inter"))
    name = events[0].name.split(".")[0]
    mapping = SourceMapping(
        "recbole",
        _events(events),
        _entities(folder / f"{name}.item", "item_id"),
        _entities(folder / f"{name}.user", "user_id"),
        _ties(folder / f"{name}.net"),
        layout=_LAYOUT,
    )
    tables = read_mapping(mapping, folder)
    return replace(tables, items=_without_types(tables.items), users=_without_types(tables.users))


def _without_types(entities: Entities | None) -> Entities | None:
    """Attributes under the fields' plain names."""
    if entities is None:
        return None
    frame = entities.table.frame.rename(lambda name: name.partition(":")[0])
    return replace(entities, table=replace(entities.table, frame=frame))


def _fields(path: Path, needed: Sequence[str]) -> dict[str, str]:
    """Type of each field, in the file's order.

    Raises:
        DataError: a column name has no type, or a required column is missing.
    """
    fields = {}
    for cell in header(path, _LAYOUT).names:
        name, colon, kind = cell.partition(":")
        if not colon:
            raise DataError("expected a name of the form field:type", path=path, line=1, field=cell)
        fields[name] = kind
    for name in needed:
        if name not in fields:
            raise DataError(f"no such field; the file has {', '.join(fields)}", path=path, line=1, field=name)
    return fields


def _events(paths: Sequence[Path]) -> InteractionColumns:
    """Columns as in the first file; a file ``name.part.inter`` is a part of a published split.

    Raises:
        DataError: a split without training or test events, or a whole file beside one.
    """
    parts = {path.name.split(".")[1]: path.name for path in paths}
    if len(paths) > 1 and not {"train", "test"} <= set(parts) <= {"train", "valid", "test"}:
        found = ", ".join(path.name for path in paths)
        raise DataError(
            f"expected name.train.inter, name.valid.inter and name.test.inter, received {found}", path=paths[0].parent
        )
    fields = _fields(paths[0], _REQUIRED_NAMES)
    typed = {name: f"{name}:{kind}" for name, kind in fields.items()}
    times, weights = typed.get("timestamp", ""), typed.get("rating", "")
    user, item = typed["user_id"], typed["item_id"]
    if len(paths) > 1:
        return InteractionColumns(user, item, files=parts, timestamp=times, weight=weights)
    return InteractionColumns(user, item, paths[0].name, timestamp=times, weight=weights)


def _entities(path: Path, key: str) -> EntityColumns | None:
    if not path.is_file():
        return None
    fields = _fields(path, [key])
    others = {name: kind for name, kind in fields.items() if name != key and kind in ("token", "token_seq")}
    title = next((name for name in _TITLES if name in others), "")
    text = tuple(
        f"{name.replace('_', ' ').capitalize()}: {{{name}:{kind}}}." for name, kind in others.items() if name != title
    )
    return EntityColumns(
        path.name,
        f"{key}:{fields[key]}",
        f"{title}:{fields[title]}" if title else "",
        ((f"{{{title}:{fields[title]}}}.",) if title else ()) + text,
        {f"{name}:{kind}": " " if kind == "token_seq" else "" for name, kind in others.items() if name != title},
    )


def _ties(path: Path) -> TieColumns | None:
    if not path.is_file():
        return None
    names = header(path, _LAYOUT).names
    if len(names) < 2:
        raise DataError("expected two columns, source_id and target_id", path=path, line=1)
    return TieColumns(path.name, names[0], names[1])
