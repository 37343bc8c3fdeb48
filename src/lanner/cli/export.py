"""The commands that export a model's results to files: export recommendations, export embeddings."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import answers, console, options
from lanner.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lanner.library.export import RecommendationsExport

USER_COLUMNS = ("user_id", "user", "userid", "userId")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of files with columns; other files have one id per line."""
SECONDS_BETWEEN_LINES = 5.0

export_app = options.group("Export recommendations or embeddings to files.")


@export_app.command()
def recommendations(
    bundle: options.BundlePath,
    out: Annotated[Path, typer.Option("--out", help="File to write: .parquet, .csv or .jsonl.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of items for each user.")] = 100,
    users: Annotated[
        Path | None,
        typer.Option(
            "--users",
            help="File of user ids: one per line, or a .csv, .tsv, .jsonl or .parquet file with a column user_id. "
            "Default: all users of the dataset.",
        ),
    ] = None,
    filters: options.Filters = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend items that the user has interacted with.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write recommendations for all users to a file: columns user_id, item_id, rank, score.

    Every item is scored exactly. After Ctrl-C the same command resumes where it stopped; finished users are kept in the
    folder <OUT>.partial until the file is written.

    \b
    Examples:
      lanner export recommendations lanner-bundle --k 100 --out recs.parquet
      lanner export recommendations lanner-bundle --users users.txt --out recs.csv
      lanner export recommendations lanner-bundle --filter genres=Drama --out drama.jsonl --json
    """
    from lanner.library.export import export_recommendations
    from lanner.library.functions import load

    started, progress = time.perf_counter(), Progress()
    model, wanted = load(bundle), answers.parse_values(filters, "--filter")
    with answers.without_warnings():
        found = export_recommendations(
            model,
            out,
            k=k,
            users=None if users is None else read_ids(users),
            exclude_seen=not include_seen,
            filters=wanted,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    for line in [*_notes(found), *answers.missed_values(model, wanted)]:
        console.complain(line)
    facts = {**asdict(found), "path": str(out), "seconds": round(seconds, 3)}
    line = f"Wrote {found.rows:,} recommendations for {found.users:,} users to {out} in {console.duration(seconds)}"
    console.show_result(facts, line, as_json=as_json)


@export_app.command()
def embeddings(
    bundle: options.BundlePath,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to.")] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet: vectors and ids as tables. npy: NumPy arrays. faiss: NumPy arrays, items as a FAISS index.",
        ),
    ] = "parquet",
    qdrant: Annotated[
        str | None,
        typer.Option("--qdrant", metavar="URL", help="Instead of --out: a Qdrant server, such as http://host:6333."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", help="Prefix of the Qdrant collections: PREFIX_users and PREFIX_items.")
    ] = "lanner",
    as_json: options.AsJson = False,
) -> None:
    """Write the vectors of all users and items, with their ids, to a folder or to Qdrant.

    The inner product of a user's and an item's vector is the model's score without its ranking head and item-to-item
    weights; the command says which of them the model has. Item biases are the last dimension.

    \b
    Examples:
      lanner export embeddings lanner-bundle --out embeddings
      lanner export embeddings lanner-bundle --out embeddings --format faiss --json
      lanner export embeddings lanner-bundle --qdrant http://localhost:6333 --prefix shop
    """
    from lanner.library.export import export_embeddings, export_to_qdrant
    from lanner.library.functions import load

    if (out is None) == (qdrant is None):
        raise ConfigError("give either --out, a folder, or --qdrant, the URL of a server")
    if out is not None:
        found = export_embeddings(load(bundle), out, format=format)  # type: ignore[arg-type]  # it names the formats
    else:
        found = export_to_qdrant(load(bundle), str(qdrant), prefix)
    place = str(out) if out is not None else f"{qdrant}, {' and '.join(found.files)}"
    facts = {**asdict(found), "path": None if out is None else str(out)}
    line = (
        f"Wrote vectors of {found.users:,} users and {found.items:,} items, {found.dimensions} dimensions, to {place}"
    )
    if found.has_bias:
        line += "; the last dimension is the item bias"
    if found.left_out:
        left_out = " and ".join(name.replace("_", "-") for name in found.left_out)
        console.complain(f"inner products leave out a part of the model's score: {left_out}; see embeddings.json")
    console.show_result(facts, line, as_json=as_json)


def read_ids(path: Path) -> list[str]:
    """User ids of a file: one per line, or the column ``user_id`` of a table, or its only column.

    Tables are read as files of events are: the separator is found, and ``.gz`` unpacked.

    Raises:
        DataError: the file cannot be read, or no column is the one of users.
    """
    import polars as pl

    from lanner.data.sources.files import column_names, data_suffix, read_bytes, read_file

    if not path.is_file():
        raise DataError("user ids cannot be read (no such file)", path=path)
    if data_suffix(path) not in TABLES:
        try:
            lines = read_bytes(path).decode().splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"user ids cannot be read (not text in UTF-8: {error.reason})", path=path) from None
        return [line.strip() for line in lines if line.strip()]
    names = column_names(path)
    named = [name for name in USER_COLUMNS if name in names] or (names if len(names) == 1 else [])
    if not named:
        raise DataError(f"no column user_id; the file has {', '.join(names)}", path=path)
    column = read_file(path, named[:1]).frame[named[0]]
    if not (column.dtype.is_integer() or column.dtype == pl.String):
        raise DataError(f"ids must be integers or strings, received {column.dtype}", path=path, field=named[0])
    ids = column.drop_nulls().cast(pl.String).str.strip_chars()
    return ids.filter(ids != "").to_list()


class Progress:
    """Prints users done, speed and time left on stderr; a line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._stages = clock, console.Stages()
        self._first: tuple[float, int] | None = None
        self._reported_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:  # users of an interrupted export, and loading, do not count towards the speed
            self._first, self._reported_at = (now, done), now
        elif now - self._reported_at >= SECONDS_BETWEEN_LINES and done < total:
            rate = (done - self._first[1]) / (now - self._first[0])
            left = console.duration((total - done) / rate)
            self._stages(f"{done:,} of {total:,} users, {rate:,.0f} users/s, {left} left")
            self._reported_at = now


def _notes(found: "RecommendationsExport") -> list[str]:
    """Unexpected properties of an export, a line each."""
    notes = ["an interrupted export with another model, users or settings was discarded"] if found.restarted else []
    notes += [f"{found.resumed:,} users were kept from the interrupted export"] if found.resumed else []
    if found.popular:
        unknown = f" ({found.unknown:,} of them not in the dataset)" if found.unknown else ""
        notes.append(f"nothing the model uses is known about {found.popular:,} users{unknown}: they get popular items")
    elif found.unknown:
        notes.append(f"{found.unknown:,} users are not in the dataset")
    return notes
