"""One file to one table: delimited text, JSON lines and Parquet, with file, line and field in each error."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl

from lanner.data.sources.digits import read_numbers
from lanner.data.tables import Table
from lanner.errors import ConfigError, DataError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_SEPARATORS = (",", "\t", ";", "|")
"""Recognised separators, the likeliest first."""
EMPTY = "an empty file, or an empty first line; begin with a header such as user,item"
_BOM = b"\xef\xbb\xbf"
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Layout:
    """How the delimited files of a source are written. Parquet and JSON files need none of it."""

    separator: str = ""
    """Separator of cells, of one character or several. Empty: the most frequent of comma, tab, semicolon and bar in the
    first line. Example: ``separator = ";"``"""
    encoding: str = "utf-8"
    """Encoding of the text, by its Python name. Example: ``encoding = "latin-1"``"""
    quote: bool = True
    """Whether cells may stand in double quotes. Example: ``quote = false``"""
    escape: str = ""
    """Escape character before a double quote inside a quoted cell. A doubled quote needs none.
    Example: ``escape = "\\\\"``"""
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the columns of each file that has no header line.
    Example: ``columns = { "u.data" = ["user", "item", "rating", "time"] }``"""

    def __post_init__(self) -> None:
        if len(self.escape) > 1:
            raise ConfigError(f"layout.escape must be one character, received '{self.escape}'")
        try:
            "\n".encode(self.encoding)
        except LookupError:
            known = "write one such as utf-8, latin-1 or utf-16"
            raise ConfigError(f"layout.encoding: no encoding '{self.encoding}'; {known}") from None


class Header(NamedTuple):
    """The first line of a delimited file."""

    names: list[str]
    offset: int
    """Byte at which the rows begin; 0 where the first line is a row."""
    separator: str


def read_file(
    path: Path,
    columns: Iterable[str],
    layout: Layout = Layout(),
    *,
    integers: Iterable[str] = (),
    decimals: Iterable[str] = (),
    lists: Iterable[str] = (),
) -> Table:
    """The requested columns of one file; a text file's cells stay text unless all of them are plain numbers.

    integers, decimals: columns that a file of plain numbers may give as integers (ids, times) and as float32.
    lists: columns that may hold lists; those of a Parquet file stay lists, those of a JSON file are JSON.

    Raises:
        DataError: no such file, a missing column, content that does not match the format of its name, or lists
            or objects where one value is expected.
    """
    wanted = list(dict.fromkeys(columns))
    if not path.is_file():
        raise DataError("no such file", path=path)
    suffix = data_suffix(path)
    if suffix == ".parquet":
        return _parquet(path, wanted, set(lists))
    if suffix in JSON_SUFFIXES:
        return _json_lines(path, wanted, set(lists))
    return _numbers(path, wanted, layout, set(integers), set(decimals)) or _delimited(path, wanted, layout)


def data_suffix(path: Path) -> str:
    """The suffix of a file's name that identifies its format: ``.csv`` of ``a.csv.gz``."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def column_names(path: Path, layout: Layout = Layout()) -> list[str]:
    """The columns of a file of any format (of a JSON file, the fields of its first 1,000 lines).

    Raises:
        DataError: its content does not match the format of its name.
    """
    suffix = data_suffix(path)
    if suffix == ".parquet":
        try:
            return list(pl.read_parquet_schema(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"does not match its extension ({_first_line(error)})", path=path, line=1) from error
    if suffix in JSON_SUFFIXES:
        return _fields(path, read_bytes(path))
    return header(path, layout).names


def require(names: Sequence[str], wanted: Iterable[str], path: Path, separator: str = "") -> None:
    """Raise ``DataError`` for the first wanted column that is missing from ``names``, or occurs twice."""
    for name in wanted:
        if not names:
            raise DataError(EMPTY, path=path, line=1)
        if name not in names:
            cut = f" (separated by {separator!r}; layout.separator in a recipe sets another)" if separator else ""
            raise DataError(f"no such column; the file has {', '.join(names)}{cut}", path=path, line=1, field=name)
        if names.count(name) > 1:
            raise DataError("two columns have this name; rename one", path=path, line=1, field=name)


def _parquet(path: Path, wanted: list[str], lists: set[str]) -> Table:
    try:
        schema = pl.read_parquet_schema(path)
        require(list(schema), wanted, path)
        for name in wanted:
            dtype = schema[name]
            if dtype in (pl.Binary, pl.Struct, pl.Object) or (dtype.is_nested() and name not in lists):
                raise DataError(f"a column of {dtype} values; write a string or number per row", path=path, field=name)
        frame = pl.read_parquet(path, columns=wanted).select(wanted)
        nested = [name for name in wanted if schema[name].is_nested()]
        frame = frame.with_columns(pl.col(nested).cast(pl.List(pl.String)))
        return Table(frame, path, unread=_unread_columns(list(schema), wanted))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"not a readable Parquet file ({_first_line(error)})", path=path) from error


def _json_lines(path: Path, wanted: list[str], lists: set[str]) -> Table:
    """Every field as text; lists and objects as their JSON. A field no line has is null."""
    data = read_bytes(path)
    schema = dict.fromkeys(wanted, pl.String)
    if not data.strip():
        return Table(pl.DataFrame(schema=schema), path)
    try:
        frame = pl.read_ndjson(io.BytesIO(data), schema=schema).select(wanted)
    except pl.exceptions.PolarsError as error:
        raise _bad_json(path, data) from error
    for name in wanted:
        if name not in lists and frame[name].str.contains(r"^[\[{]").any():
            _refuse_nested(path, data, name)
    return Table(frame, path, unread=_unread_columns(_fields(path, data), wanted))


def _fields(path: Path, data: bytes) -> list[str]:
    """The fields of the first 1,000 lines of JSON."""
    lines = [line for line in data.split(b"\n", 1_000)[:1_000] if line.strip()]
    try:
        return list(dict.fromkeys(key for line in lines for key in json.loads(line)))
    except (ValueError, TypeError) as error:
        raise _bad_json(path, data) from error


def _unread_columns(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """The columns that are not wanted, as ``Table.unread``."""
    return {name: "" for name in names if name not in wanted}


def _refuse_nested(path: Path, data: bytes, name: str) -> None:
    """Raise ``DataError`` for the first line whose field is a list or an object; a text may start with a bracket."""
    for number, line in enumerate(data.split(b"\n"), 1):
        value = json.loads(line).get(name) if line.strip() else None
        if isinstance(value, list | dict):
            problem = f"expected one string or number, received {json.dumps(value)[:80]}"
            raise DataError(problem, path=path, line=number, field=name)


def _bad_json(path: Path, data: bytes) -> DataError:
    """The error that names the first line that is not a JSON object."""
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError as error:
            return DataError(f"not JSON ({error})", path=path, line=number)
        if not isinstance(parsed, dict):
            return DataError(
                f"expected one JSON object per line, received {type(parsed).__name__}", path=path, line=number
            )
    return DataError("not JSON lines", path=path)


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in ``.gz``, without a byte order mark."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a gzip file, or cut short ({error})", path=path) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from error
    return data.removeprefix(_BOM)


def header(path: Path, layout: Layout) -> Header:
    """Names of a delimited file's columns, the start of its rows, and its separator.

    Raises:
        DataError: it is not text.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            line = file.read() if _is_wide(layout) else file.readline()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a gzip file, or cut short ({error})", path=path) from error
    if b"\r" in line.rstrip(b"\r\n") and not _is_wide(layout):
        line = line[: line.index(b"\r") + 1]
    try:
        text = line.decode(layout.encoding).removeprefix("\ufeff").rstrip("\r\n")
        text = re.split(r"[\r\n]", text, maxsplit=1)[0] if _is_wide(layout) else text
    except UnicodeDecodeError as error:
        raise _not_text(path, line, layout, error) from error
    if "\0" in text:
        raise DataError(f"not a text file, or one in another encoding; {_encoding_hint('utf-16')}", path=path, line=1)
    plain = _QUOTED.sub("", text) if layout.quote else text
    separator = layout.separator or max(_SEPARATORS, key=plain.count)
    if path.name in layout.columns:
        return Header(list(layout.columns[path.name]), 0, separator)
    quoted = layout.quote and len(separator) == 1
    try:
        cells = next(csv.reader([text], delimiter=separator), []) if quoted else text.split(separator)
    except csv.Error as error:
        raise DataError(f"not a header line ({error})", path=path, line=1) from error
    return Header([cell.strip() for cell in cells] if text else [], len(line), separator)


def _is_wide(layout: Layout) -> bool:
    """Whether the end of a line is more than one byte."""
    return "\n".encode(layout.encoding) != b"\n"


def _not_text(path: Path, data: bytes, layout: Layout, error: UnicodeDecodeError) -> DataError:
    likely = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin-1"
    problem = f"not text in {layout.encoding} ({error.reason}); {_encoding_hint(likely)}"
    return DataError(problem, path=path, line=data.count(b"\n", 0, error.start) + 1)


def _encoding_hint(likely: str) -> str:
    return f'name the encoding in a recipe (.toml), such as: layout.encoding = "{likely}"'


def _numbers(path: Path, wanted: list[str], layout: Layout, integers: set[str], decimals: set[str]) -> Table | None:
    if path.suffix == ".gz" or _is_wide(layout) or not set(wanted) <= integers | decimals:
        return None
    names, offset, separator = header(path, layout)
    require(names, wanted, path, separator)
    kinds = [None if name not in wanted else name in integers for name in names]
    columns = read_numbers(path, offset=offset, separator=separator, integers=kinds)
    if columns is None:
        return None
    read = [name for name in names if name in wanted]
    frame = pl.DataFrame(dict(zip(read, columns, strict=True))).select(wanted)
    return Table(frame, path, 2 if offset else 1, unread=_unread_columns(names, wanted))


def _delimited(path: Path, wanted: list[str], layout: Layout) -> Table:
    data = read_bytes(path)
    headed = path.name not in layout.columns
    if not data.strip():
        if headed:
            raise DataError(EMPTY, path=path, line=1)
        return Table(pl.DataFrame(schema=dict.fromkeys(wanted, pl.String)), path)
    try:
        # Undecodable bytes are detected here, before a reader would replace them with question marks.
        text = data.decode(layout.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_text(path, data, layout, error) from error
    if "\n" not in text:
        text = text.replace("\r", "\n")
    names, _, separator = header(path, layout)
    require(names, wanted, path, separator)
    frame = _split_cells(path, text.rstrip("\r\n"), layout, separator, None if headed else names)
    columns = [frame[:, names.index(name)].alias(name) for name in wanted]
    return Table(pl.DataFrame(columns), path, 2 if headed else 1, unread=_unread_columns(names, wanted))


def _split_cells(path: Path, text: str, layout: Layout, separator: str, names: Sequence[str] | None) -> pl.DataFrame:
    if len(separator) > 1:
        return _split_long(text, separator, names)
    if layout.quote and layout.escape:
        text = re.sub(
            re.escape(layout.escape) + f'(["{re.escape(layout.escape)}])',
            lambda found: '""' if found[1] == '"' else found[1],
            text,
        )
    if layout.quote and '"' in text:
        _check_quotes(path, text, separator)
    try:
        return pl.read_csv(
            io.BytesIO(text.encode()),
            separator=separator,
            quote_char='"' if layout.quote else None,
            has_header=names is None,
            new_columns=None if names is None else list(names),
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        raise _bad_line(path, text, layout, separator, names) from error


def _split_long(text: str, separator: str, names: Sequence[str] | None) -> pl.DataFrame:
    """Cells between separators of several characters, which Polars' own reader does not support."""
    lines = pl.Series(text.splitlines())
    names, lines = (lines[0].split(separator), lines[1:]) if names is None else (list(names), lines)
    cells = lines.str.splitn(separator, len(names)).struct.rename_fields(list(names))
    return cells.struct.unnest()


def _check_quotes(path: Path, text: str, separator: str) -> None:
    """Raise ``DataError`` for the first cell whose quotes do not pair; Polars guesses, or blames the first line."""
    cell = rf'"[^"]*+(?:""[^"]*+)*+"|[^"{re.escape(separator)}\n]*+'
    whole = re.match(rf"(?:(?:{cell})(?:{re.escape(separator)}|\r?\n|\Z))*+", text)
    at = whole.end() if whole else 0
    if at == len(text):
        return
    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    line = text[start : end if end >= 0 else None]
    advice = "layout.quote = false in a recipe reads quotes as plain characters"
    if '\\"' in line:
        advice = 'layout.escape = "\\\\" in a recipe reads \\" as a plain quote'
    shown = line[at - start :].split(separator)[0].strip()[:60]
    raise DataError(f"an unpaired quote in {shown}; {advice}", path=path, line=text.count("\n", 0, at) + 1)


def _bad_line(path: Path, text: str, layout: Layout, separator: str, names: Sequence[str] | None) -> DataError:
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if layout.quote else csv.QUOTE_NONE)
    expected = list(names) if names is not None else next(rows)
    try:
        for cells in rows:
            if len(cells) > len(expected):
                problem = f"{len(cells)} cells, expected {len(expected)} separated by {separator!r}"
                return DataError(problem, path=path, line=rows.line_num, field=expected[-1].strip())
    except csv.Error as error:
        return DataError(f"not readable as delimited text ({error})", path=path, line=rows.line_num)
    return DataError("not readable as delimited text", path=path, line=1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
