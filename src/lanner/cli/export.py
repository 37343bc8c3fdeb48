"""The commands that write what a model knows to files: export recommendations, export embeddings."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import answers, console, options
from lanner.errors import DataError

if TYPE_CHECKING:
    from lanner.library.export import RecommendationsExport

USER_COLUMNS = ("user_id", "user", "userid", "userId")
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
            help="File of user ids: one per line, or a .csv or .parquet file with a column user_id. Default: all users "
            "of the dataset.",
        ),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="Only items with this attribute; repeatable."),
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend items that the user has interacted with.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Write recommendations for all users to a file: columns user_id, item_id, rank, score.

    Every item is scored exactly. After Ctrl-C the same command goes on where it stopped; finished users are kept in the
    folder <OUT>.partial until the file is written.

    \b
    Examples:
      lanner export recommendations lanner-bundle --k 100 --out recs.parquet
      lanner export recommendations lanner-bundle --users users.txt --out recs.csv
      lanner export recommendations lanner-bundle --filter genres=Drama --out drama.jsonl --json
    """
    from lanner.library.export import export_recommendations
    from lanner.library.functions import load

    begun, progress = time.perf_counter(), Progress()
    found = export_recommendations(
        load(bundle),
        out,
        k=k,
        users=None if users is None else read_ids(users),
        exclude_seen=not include_seen,
        filters=answers.parse_filters(filters),
        progress=progress,
    )
    seconds = time.perf_counter() - begun
    for line in _notes(found):
        console.complain(line)
    facts = {**asdict(found), "path": str(out), "seconds": round(seconds, 3)}
    line = f"Wrote {found.rows:,} recommendations for {found.users:,} users to {out} in {_duration(seconds)}"
    console.show_result(facts, line, as_json=as_json)


@export_app.command()
def embeddings(
    bundle: options.BundlePath,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="parquet: vectors and ids as tables. npy: NumPy arrays. faiss: NumPy arrays, items as a FAISS index.",
        ),
    ] = "parquet",
    as_json: options.AsJson = False,
) -> None:
    """Write the vectors of all users and items, with their ids, to a folder.

    The inner product of a user's and an item's vector is the model's score without its ranking head and item-to-item
    weights; the command says which of them the model has. Item biases are the last dimension.

    \b
    Examples:
      lanner export embeddings lanner-bundle --out embeddings
      lanner export embeddings lanner-bundle --out embeddings --format faiss --json
    """
    from lanner.library.export import export_embeddings
    from lanner.library.functions import load

    found = export_embeddings(load(bundle), out, format=format)  # type: ignore[arg-type]  # it names the formats
    facts = {**asdict(found), "path": str(out)}
    line = f"Wrote vectors of {found.users:,} users and {found.items:,} items, {found.dimensions} dimensions, to {out}"
    if found.has_bias:
        line += "; the last dimension is the item bias"
    if found.left_out:
        left_out = " and ".join(name.replace("_", "-") for name in found.left_out)
        console.complain(f"inner products leave out a part of the model's score: {left_out}; see embeddings.json")
    console.show_result(facts, line, as_json=as_json)


def read_ids(path: Path) -> list[str]:
    """User ids of a file: one per line, or the column ``user_id`` of a CSV or Parquet file, or its only column.

    Raises:
        DataError: the file cannot be read, or no column is the one of users.
    """
    import polars as pl

    try:
        if path.suffix not in (".csv", ".parquet"):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            return [line.strip() for line in lines if line.strip()]
        frame = pl.read_csv(path, infer_schema=False) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"user ids cannot be read ({reason})", path=path) from None
    named = [name for name in USER_COLUMNS if name in frame.columns] or (frame.columns if frame.width == 1 else [])
    if not named:
        raise DataError(f"no column user_id; there are {', '.join(frame.columns)}", path=path)
    column = frame[named[0]]
    if not (column.dtype.is_integer() or column.dtype == pl.String):
        raise DataError(f"ids must be integers or texts, received {column.dtype}", path=path, field=named[0])
    return column.drop_nulls().cast(pl.String).to_list()


class Progress:
    """Tells on stderr how many users are done, how fast, and how long it will take; a line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._stages = clock, console.Stages()
        self._first: tuple[float, int] | None = None
        self._told = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:  # what came before it was loading, or kept from a stopped export
            self._first, self._told = (now, done), now
        elif now - self._told >= SECONDS_BETWEEN_LINES and done < total:
            rate = (done - self._first[1]) / (now - self._first[0])
            left = _duration((total - done) / rate)
            self._stages(f"{done:,} of {total:,} users, {rate:,.0f} users/s, {left} left")
            self._told = now


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _notes(found: "RecommendationsExport") -> list[str]:
    """What of an export is not as one may expect, a line each."""
    notes = ["a stopped export with another model, users or settings was discarded"] if found.restarted else []
    notes += [f"{found.resumed:,} users were kept from the export that was stopped"] if found.resumed else []
    if found.popular:
        unknown = f" ({found.unknown:,} of them not in the dataset)" if found.unknown else ""
        notes.append(
            f"nothing that the model uses is known of {found.popular:,} users{unknown}: they get popular items"
        )
    return notes
