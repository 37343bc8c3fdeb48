"""Options that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lanner.errors import ConfigError, optional_module


def group(help: str) -> typer.Typer:
    """A group of subcommands."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)


def require_msgspec(purpose: str) -> None:
    """Raises ``MissingExtraError`` if the packages for a server's files are missing."""
    optional_module("msgspec", "msgspec", "serving", purpose)


def existing_store(url: str) -> str:
    """The event store that a command reads; raises ``ConfigError`` if it does not exist, as opening would create it."""
    path = url.removeprefix("sqlite:///")
    if path and "://" not in path and not Path(path).is_file():
        raise ConfigError(f"--store {url}: no such file; give the store that lanner serve writes to")
    return url


MODEL_NAMES = (
    "random, popularity, item-knn, ease, ials, graph-filter, lightgcn, language, gnn, gnn-filter, fusion, hybrid"
)
SPLIT_NAMES = "auto, none, random, leave-last-out, global-time, cold-items, published"

Data = Annotated[
    str | None,
    typer.Argument(help="Dataset: a folder, a file of events, a recipe (.toml), or the name of a bundled dataset."),
]
BundlePath = Annotated[Path, typer.Argument(help="Folder of a bundle, as lanner run writes it.", metavar="BUNDLE")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings; see lanner settings.")]
Model = Annotated[str | None, typer.Option("--model", help=f"Model to train: {MODEL_NAMES}. Default: hybrid.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help=f"How to withhold test events: {SPLIT_NAMES}. auto (default): global-time if events have timestamps, "
        "else random. none: withhold nothing.",
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Random seed of the model and its training, not of the split.")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option("--device", help="Where to train; auto: on a GPU if there is one."),
]
Adapt = Annotated[
    Literal["none", "lora", "dora", "full"] | None,
    typer.Option(
        "--adapt",
        help="Fine-tune the language model as well: with adapters (lora, dora; extra adapt) or in full. Default: none.",
    ),
]
Rank = Annotated[int | None, typer.Option("--rank", min=1, help="Rank of the adapters; default: 8.")]
Processes = Annotated[
    int | None,
    typer.Option(
        "--nproc", min=1, help="Number of local processes that train the language model (--adapt); default: 1."
    ),
]
Parallel = Annotated[
    str | None,
    typer.Option(
        "--parallel",
        metavar="DEGREES",
        help='Their degrees of parallelism, such as "pp=2,replicate=2": replicate (default: all), shard, pp, tp.',
    ),
]
Engine = Annotated[
    Literal["torch", "deepspeed"] | None,
    typer.Option("--engine", help="Their training engine: torch (default), or deepspeed (ZeRO; extra deepspeed)."),
]
Log = Annotated[
    Literal["none", "tensorboard", "mlflow"] | None,
    typer.Option(
        "--log",
        help="Write losses, rates and validation metrics to training.log_folder while training; "
        "extra tracking. Default: none.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write the bundle to.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change any setting, such as split.test=0.1; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
TopK = Annotated[int, typer.Option("-k", "--k", min=1, help="Number of items.")]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="NAME=VALUE",
        help="Only items with this attribute, such as genres=Drama; repeatable. An item needs only one of several "
        "values of the same attribute.",
    ),
]
User = Annotated[str | None, typer.Option("--user", help="Id of a user of the dataset.")]
History = Annotated[
    list[str] | None,
    typer.Option("--history", help="Item ids of the user's history: separated by commas, or one per --history."),
]
TEXT_IGNORED = "the model does not use texts; --text had no effect"
HistoryFile = Annotated[
    str | None, typer.Option("--history-file", help="File with the item ids, one per line; - reads standard input.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads per runtime.")]
UserAttributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        metavar="NAME=VALUE",
        help="Attribute of the user, such as sex=F, instead of the known ones; repeatable.",
    ),
]
QueryText = Annotated[
    str | None, typer.Option("--text", help="Search text, for models that read texts (hybrid, language).")
]
