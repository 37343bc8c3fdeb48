"""The command that plans training over several devices."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lanner.cli import console, options
from lanner.errors import optional_module


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
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option("--device", help="Where the layers are timed; auto: on a GPU if there is one."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option("--dtype", help="Compute dtype; auto: bfloat16 where the device supports it natively."),
    ] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Choose how to divide training over the devices of a cluster. The model's layers are timed on this machine.

    All figures are predictions; the slowness of a device is relative to this machine.

    \b
    Examples:
      lanner plan --cluster cluster.toml
      lanner plan --cluster cluster.toml --model my-model --compression none --compression powersgd:4 --json
    """
    optional_module("torch", "torch", "language", "lanner plan")
    from lanner.distributed import planner, profiling
    from lanner.distributed.cluster import read_cluster
    from lanner.distributed.compressors import compressor_of
    from lanner.distributed.schedules import SCHEDULES

    compressions = tuple(compression or ("none",))
    for name in compressions:
        compressor_of(name)
    described = read_cluster(cluster)
    table = profiling.profile_model(model, tokens, device, dtype)
    found = planner.search(table, described, rows, compressions=compressions, schedules=tuple(SCHEDULES))
    best, lines, settings = found[0], planner.explain(found), shlex.join(planner.options_of(found[0].plan))
    if as_json:
        facts: dict[str, Any] = {"best": asdict(best), "why": lines, "options": settings}
        console.show_json({"estimated": True, "devices": len(described.devices), **facts})
        return
    console.show_line(f"estimated · {lines[0]}")
    for line in lines[1:]:
        console.show_line(f"            {line}")
    if settings:
        console.show_line(planner.division(best.plan))
        console.show_line(f"options of lanner train: {settings}")
