"""The commands that inspect and download datasets: data describe, data list, data fetch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, group
from lanner.errors import StorageError

if TYPE_CHECKING:
    from lanner.data.published import PublishedDataset

data_app = group("Inspect datasets, and download published ones.")
SECONDS_BETWEEN_LINES = 2.0
_MB = 1_000_000


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
            help="Write the rejected rows, each with its reason, to this Parquet file (.parquet), or to a new one in "
            "this folder.",
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

    if rejected is not None:
        _check_replaceable(rejected)
    dataset = load_dataset(DataConfig(path, format))
    written = None if rejected is None else write_rejected(dataset, rejected)
    facts = counted(dataset)
    if as_json:
        console.show_json({**facts, "rejected_rows": None if written is None else str(written)})
        return
    warnings = facts.pop("warnings")
    console.show_facts(path, {**facts, "unread": ", ".join(facts["unread"]) or None})
    for warning in warnings:
        console.show_line(f"Warning: {warning}")
    if written is not None:
        console.show_line(f"The rejected rows are in {written}")
    elif dataset.rejected:
        console.show_line("To write the rejected rows to a file: --rejected rejected.parquet")


@data_app.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List published datasets: what they contain, how to get them, and under what terms.

    \b
    Examples:
      lanner data list
      lanner data list --json
    """
    from lanner.data.published import is_fetched, published

    known = published().values()
    if as_json:
        console.show_json({"datasets": [{**_facts(one), "fetched": is_fetched(one, one.folder)} for one in known]})
        return
    rows = [(one.name, one.events, "here" if is_fetched(one, one.folder) else one.way, one.terms) for one in known]
    console.show_table("Published datasets", ("name", "what", "how", "terms"), rows)


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a dataset, as lanner data list shows it.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write; default: NAME in LANNER_DATA, else in the user's data directory."),
    ] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Download it: you have read the terms, and they allow your use.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where a published dataset is and under what terms; with --accept-terms, download and verify it.

    An interrupted download is resumed. Checksums are verified where one is known; archives are
    unpacked with size limits. If no program may download a dataset, the manual steps are shown.

    \b
    Examples:
      lanner data fetch ml-1m
      lanner data fetch ml-1m --accept-terms
      lanner data fetch yelp --json
    """
    from lanner.data.published import fetch as fetched
    from lanner.data.published import published_dataset

    dataset = published_dataset(name)
    folder = out or dataset.folder
    facts = {**_facts(dataset), "folder": str(folder), "read": _reading(dataset, folder)}
    if not accept_terms or dataset.bundled:
        if as_json:
            console.show_json(facts)
            return
        console.show_facts(dataset.title, {key: value for key, value in facts.items() if key not in ("title", "files")})
        for one in dataset.files:
            console.show_line(f"{one.url}: {_checksum_note(one.sha256)}, at most {one.at_most_mb:,} MB")
        if dataset.files:
            again = f"lanner data fetch {name}{'' if out is None else f' --out {out}'} --accept-terms"
            console.show_line(f"If the terms allow your use, download it: {again}")
        return
    for one in dataset.files:
        if not one.sha256:
            console.complain(f"{one.name}: no checksum is known, so the file cannot be verified")
    fetched(dataset, folder, progress=_Progress)
    line = f"{dataset.title} is in {folder}. Terms: {dataset.terms} To read it: {facts['read']}"
    console.show_result({**facts, "fetched": True}, line, as_json=as_json)


class _Progress:
    """Prints download progress, speed and time left on stderr; a line every two seconds."""

    def __init__(self, name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._name, self._clock, self._stages = name, clock, console.Stages()
        self._first: tuple[float, int] | None = None
        self._reported_at = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = self._clock()
        if self._first is None:  # bytes of an earlier attempt do not count towards the speed
            self._first, self._reported_at = (now, done), now
        elif now - self._reported_at >= SECONDS_BETWEEN_LINES:
            rate = max(done - self._first[1], 1) / (now - self._first[0])
            whole = "" if total is None else f" of {total / _MB:,.1f}"
            left = "" if total is None else f", {console.duration((total - done) / rate)} left"
            self._stages(f"{self._name}: {done / _MB:,.1f}{whole} MB, {rate / _MB:,.1f} MB/s{left}")
            self._reported_at = now


def _facts(dataset: "PublishedDataset") -> dict[str, Any]:
    """The entry as JSON."""
    from dataclasses import asdict

    facts = asdict(dataset)
    files = [{**one, "sha256": one["sha256"] or None} for one in facts.pop("files")]
    del facts["bundled"]
    return {**{key: value or None for key, value in facts.items()}, "how": dataset.way, "files": files}


def _checksum_note(sha256: str) -> str:
    return f"SHA-256 {sha256}" if sha256 else "no checksum is known"


def _reading(dataset: "PublishedDataset", folder: Path) -> str:
    """The command that reads the dataset once it is downloaded."""
    if dataset.bundled:
        return f"lanner run {dataset.name}"
    if dataset.format:
        return f"lanner run {folder}"
    return f"lanner run recipes/{dataset.name}.toml"


def _check_replaceable(path: Path) -> None:
    """Raises ``StorageError`` if ``path`` is a file, but not one of rejected rows, or names one of another format."""
    if not path.exists() and path.suffix not in ("", ".parquet"):
        raise StorageError(f"--rejected {path}: unknown format; give a file that ends with .parquet, or a folder")
    if not path.is_file():
        return
    import polars as pl

    try:
        ours = {"reason", "file", "line", "record"} == set(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError):
        ours = False
    if not ours:
        raise StorageError(f"{path}: exists and is not a file of rejected rows; give another name to --rejected")
