"""The commands that look at datasets: data describe."""

from pathlib import Path
from typing import Annotated

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, group
from lanner.errors import StorageError

data_app = group("Look at datasets.")


@data_app.command()
def describe(
    path: Annotated[
        str,
        typer.Argument(help="Dataset: a folder, a file of events, a recipe (.toml), or the name of a bundled dataset."),
    ],
    format: Annotated[
        str, typer.Option("--format", help="Format of the dataset; auto: detected from the files.")
    ] = "auto",
    rejected: Annotated[
        Path | None,
        typer.Option(
            "--rejected",
            help="Write the rejected rows, each with its reason, to this Parquet file (.parquet) or folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show dataset statistics: size, density, degrees, texts, friends, time span, and rejected rows with reasons.

    \b
    Examples:
      lanner data describe ml-latest-small
      lanner data describe ratings.csv --rejected rejected.parquet --json
    """
    from lanner.config import DataConfig
    from lanner.data.describe import describe as counted
    from lanner.data.rejects import write_rejected
    from lanner.registry import load_dataset

    dataset = load_dataset(DataConfig(path, format))
    if rejected is not None:
        _check_replaceable(rejected)
    written = None if rejected is None else write_rejected(dataset, rejected)
    facts = counted(dataset)
    if as_json:
        console.show_json({**facts, "rejected_rows": None if written is None else str(written)})
        return
    warnings = facts.pop("warnings")
    console.show_facts(path, facts)
    for warning in warnings:
        console.show_line(f"Warning: {warning}")
    if written is not None:
        console.show_line(f"The rejected rows are in {written}")
    elif dataset.rejected:
        console.show_line("To write the rejected rows to a file: --rejected rejected.parquet")


def _check_replaceable(path: Path) -> None:
    """Raises ``StorageError`` where ``path`` is a file, but not one of rejected rows."""
    if not path.is_file():
        return
    import polars as pl

    try:
        ours = {"reason", "file", "line", "record"} == set(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError):
        ours = False
    if not ours:
        raise StorageError(f"{path}: exists and holds no rejected rows; give another name to --rejected")
