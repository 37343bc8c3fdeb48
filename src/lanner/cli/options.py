"""Options that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer


def group(help: str) -> typer.Typer:
    """Commands under one name."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)


MODEL_NAMES = "random, popularity, item-knn, ease, ials, graph-filter, lightgcn, language, gnn, gnn-filter, hybrid"

Data = Annotated[str | None, typer.Argument(help="A dataset's folder, a file, a recipe (.toml) or a bundled name.")]
BundlePath = Annotated[Path, typer.Argument(help="The folder of a bundle.", metavar="BUNDLE")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings in TOML.")]
Model = Annotated[str | None, typer.Option("--model", help=f"One of {MODEL_NAMES}.")]
SplitName = Annotated[
    str | None,
    typer.Option("--split", help="What to hide: random, leave-last-out, global-time, cold-items, published."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the model and its training; the split keeps its own.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write the bundle to.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
TopK = Annotated[int, typer.Option("-k", min=1, help="How many items.")]
User = Annotated[str | None, typer.Option("--user", help="A known user's id.")]
History = Annotated[
    list[str] | None,
    typer.Option("--history", help="Items an anonymous user chose: ids separated by commas, or one a --history."),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads per runtime.")]
QueryText = Annotated[str | None, typer.Option("--text", help="What is looked for, in words; for models that read.")]
