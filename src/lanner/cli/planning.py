"""The command that plans training over several devices."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lanner.cli import console, options
from lanner.errors import ConfigError, optional_module


def plan(
    cluster: Annotated[Path, typer.Option("--cluster", help="TOML file with racks, devices and links.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Language model: a folder or a name. Default: the bundled encoder.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Texts per batch, over all devices.")] = 256,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens per text.")] = 64,
    compression: Annotated[
        list[str] | None,
        typer.Option("--compression", help="Gradient compression that the plan may use; repeatable. Default: none."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose how to divide training over the devices of a cluster. The model's layers are timed on this machine.

    All figures are predictions; the slowness of a device is relative to this machine.

    \b
    Examples:
      lanner plan --cluster cluster.toml
      lanner plan --cluster cluster.toml --model my-model --compression none --compression int8 --json
    """
    optional_module("torch", "torch", "language", "lanner plan")
    from lanner.distributed import planner, profiling
    from lanner.distributed.cluster import read_cluster
    from lanner.distributed.prediction import RATIOS

    chosen = tuple(compression or ("none",))
    unknown = [name for name in chosen if name not in RATIOS]
    if unknown:
        raise ConfigError(f"--compression {unknown[0]}: choose among {', '.join(RATIOS)}")
    described = read_cluster(cluster)
    schedules = ("1f1b", "interleaved")
    found = planner.search(
        profiling.profile_model(model, tokens), described, rows, compressions=chosen, schedules=schedules
    )
    lines = planner.explain(found)
    if as_json:
        best: dict[str, Any] = asdict(found[0])
        console.show_json({"estimated": True, "devices": len(described.devices), "best": best, "why": lines})
        return
    console.show_line(f"estimated · {lines[0]}")
    for line in lines[1:]:
        console.show_line(f"            {line}")
