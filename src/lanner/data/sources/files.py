"""One file to one table: delimited text, JSON lines and Parquet, each error with its file, line and field."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from lanner.data.sources.digits import read_numbers
from lanner.data.tables import Table
from lanner.errors import DataError

_JSON = (".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Layout:
    """How the delimited files of a source are written. Parquet and JSON files need none of it."""

    separator: str = ","
    encoding: str = "utf-8"
    quote: bool = True
    """Whether cells may stand in double quotes."""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the columns of each file that has no header line."""


def read_file(
    path: Path,
    columns: Iterable[str],
    layout: Layout = Layout(),
    *,
    integers: Iterable[str] = (),
    decimals: Iterable[str] = (),
) -> Table:
    """The asked-for columns of one file; a text file's cells stay text unless all of them are plain numbers.

    integers, decimals: columns that a file of plain numbers may give as integers (ids, times) and as float32.

    Raises:
        DataError: no such file, a column that is not there, or bytes that are not of the format its name says.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError("no such file", path=path)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".parquet":
        return _parquet(path, wanted)
    if suffix in _JSON:
        return _json_lines(path, wanted)
    return _numbers(path, wanted, layout, set(integers), set(decimals)) or _delimited(path, wanted, layout)


def require(names: Sequence[str], wanted: Iterable[str], path: Path) -> None:
    """Raise ``DataError`` for the first wanted column that is not among ``names``."""
    for name in wanted:
        if name not in names:
            raise DataError(f"no such column; the file has {', '.join(names)}", path=path, line=1, field=name)


def _parquet(path: Path, wanted: list[str]) -> Table:
    try:
        names = pl.read_parquet_schema(path)
        require(list(names), wanted, path)
        return Table(pl.read_parquet(path, columns=wanted).select(wanted), path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"not a readable Parquet file ({_first_line(error)})", path=path) from error


def _json_lines(path: Path, wanted: list[str]) -> Table:
    """Every field as text; lists and objects as their JSON. A field no line has is null."""
    data = read_bytes(path)
    schema = dict.fromkeys(wanted, pl.String)
    if not data.strip():
        return Table(pl.DataFrame(schema=schema), path)
    try:
        return Table(pl.read_ndjson(io.BytesIO(data), schema=schema).select(wanted), path)
    except pl.exceptions.PolarsError as error:
        raise bad_json(path, data) from error


def bad_json(path: Path, data: bytes) -> DataError:
    """The error that names the first line which is no JSON object."""
    for number, line in enumerate(data.splitlines(), 1):
        try:
            parsed = json.loads(line)
        except ValueError as error:
            return DataError(f"not JSON ({error})", path=path, line=number)
        if not isinstance(parsed, dict):
            return DataError(
                f"expected one JSON object a line, received {type(parsed).__name__}", path=path, line=number
            )
    return DataError("not JSON lines", path=path)


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where its name ends in ``.gz``."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a gzip file, or cut short ({error})", path=path) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error


def header(path: Path, layout: Layout) -> tuple[list[str], int]:
    """Names of a delimited file's columns, and the byte at which its rows begin."""
    if path.name in layout.columns:
        return list(layout.columns[path.name]), 0
    with path.open("rb") as file:
        line = file.readline()
    try:
        text = line.decode(layout.encoding).removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not text in {layout.encoding} ({error.reason})", path=path, line=1) from error
    if "\0" in text:
        raise DataError("not a text file", path=path, line=1)
    cells = [cell.strip().strip('"') if layout.quote else cell.strip() for cell in text.split(layout.separator)]
    return (cells if text else []), len(line)


def _numbers(path: Path, wanted: list[str], layout: Layout, integers: set[str], decimals: set[str]) -> Table | None:
    if path.suffix == ".gz" or not set(wanted) <= integers | decimals:
        return None
    names, offset = header(path, layout)
    require(names, wanted, path)
    kinds = [None if name not in wanted else name in integers for name in names]
    columns = read_numbers(path, offset=offset, separator=layout.separator, integers=kinds)
    if columns is None:
        return None
    read = [name for name in names if name in wanted]
    frame = pl.DataFrame(dict(zip(read, columns, strict=True))).select(wanted)
    return Table(frame, path, 2 if offset else 1)


def _delimited(path: Path, wanted: list[str], layout: Layout) -> Table:
    data = read_bytes(path)
    headed = path.name not in layout.columns
    if not data.strip():
        if headed:
            raise DataError("an empty file, not even a header line", path=path, line=1)
        return Table(pl.DataFrame(schema=dict.fromkeys(wanted, pl.String)), path)
    try:
        # Bytes that are no text are found here, before a reader would put question marks in their place.
        text = data.decode(layout.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"not text in {layout.encoding} ({error.reason})", path=path, line=line) from error
    frame = _split_cells(path, text, layout)
    require(frame.columns, wanted, path)
    return Table(frame.select(wanted), path, 2 if headed else 1)


def _split_cells(path: Path, text: str, layout: Layout) -> pl.DataFrame:
    names = layout.columns.get(path.name)
    if len(layout.separator) > 1:
        return _split_long(text, layout.separator, names)
    try:
        return pl.read_csv(
            io.BytesIO(text.encode()),
            separator=layout.separator,
            quote_char='"' if layout.quote else None,
            has_header=names is None,
            new_columns=None if names is None else list(names),
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        raise _bad_line(path, text, layout, names) from error


def _split_long(text: str, separator: str, names: Sequence[str] | None) -> pl.DataFrame:
    """Cells between separators of several characters, which Polars' own reader does not know."""
    lines = pl.Series(text.splitlines())
    names, lines = (lines[0].split(separator), lines[1:]) if names is None else (list(names), lines)
    cells = lines.str.splitn(separator, len(names)).struct.rename_fields(list(names))
    return cells.struct.unnest()


def _bad_line(path: Path, text: str, layout: Layout, names: Sequence[str] | None) -> DataError:
    lines = text.splitlines()
    expected = len(names) if names is not None else lines[0].count(layout.separator) + 1
    for number, line in enumerate(lines, 1):
        cells = line.count(layout.separator) + 1
        if cells > expected and not (layout.quote and '"' in line):
            last = (list(names) if names is not None else lines[0].split(layout.separator))[-1]
            return DataError(f"{cells} cells, expected {expected}", path=path, line=number, field=last)
    return DataError("not a delimited text that can be read", path=path, line=1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
