"""The commands from a bundle to what a service runs: compress, profile, serve, keys, events."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, BundlePath, Overrides, Threads


def compress(
    bundle: BundlePath,
    max_ndcg_loss: Annotated[
        float, typer.Option("--max-ndcg-loss", help="Relative loss of validation ndcg@10 that a variant may have.")
    ] = 0.005,
    target: Annotated[str, typer.Option("--target", help="latency or size.")] = "latency",
    seconds: Annotated[float, typer.Option("--seconds", help="Spent on teaching the pruned encoder.")] = 300.0,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Make smaller variants of a bundle, judge and time each, and write them beside it as a ladder.

    Examples:

      lanner compress lanner-bundle

      lanner compress lanner-bundle --max-ndcg-loss 0.01 --target size --seconds 60 --json
    """
    from functools import partial

    from lanner.compress import compress as compressed
    from lanner.compression.encoder import EncoderRecipe
    from lanner.compression.steps import Budget
    from lanner.serving.profile import measure_rung

    measure = partial(measure_rung, threads=threads)
    ladder = compressed(
        bundle, Budget(max_ndcg_loss, target), EncoderRecipe(seconds=seconds), measure, console.Stages()
    )
    if as_json:
        rungs = {name: facts["figures"] for name, facts in ladder.table["rungs"].items()}
        console.show_json({"ladder": str(ladder.path), "rungs": rungs, **ladder.table["report"]})
        return
    steps = [tuple(step.values()) for step in ladder.table["report"]["steps"]]
    console.show_table("Judged on validation", ("step", "ndcg@10", "relative loss", "kept"), steps)
    best = ladder.table["report"]["best"]
    console.show_line(
        f"Least {target} within the loss: {best}. The ladder is in {ladder.path}: lanner profile {bundle}"
    )


def profile(
    bundle: BundlePath,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="A rung of the ladder; repeatable.")] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="torch, torch-compile, onnxruntime, openvino, numba, cuda or tensorrt: it reads the texts.",
        ),
    ] = "torch",
    text: Annotated[str | None, typer.Option("--text", help="Read with each request, where texts are read.")] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many.")] = 200,
    threads: Threads = 2,
    plot: Annotated[Path | None, typer.Option("--plot", help="A picture (.svg, .png) of the same.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the time of a request goes, per variant, beside what this machine's memory and arithmetic allow.

    Examples:

      lanner profile lanner-bundle

      lanner profile lanner-bundle --variant int8 --backend onnxruntime --text "slow science fiction" --plot time.svg
    """
    from lanner.artifacts.ladder import read_ladder
    from lanner.pipeline import open_bundle
    from lanner.serving.profile import draw, machine_ceilings, profile_ladder

    histories = open_bundle(bundle).dataset.histories
    found = profile_ladder(read_ladder(bundle), variant or (), backend, histories, requests, text, threads)
    ceilings = machine_ceilings()
    if plot is not None:
        draw(plot, found)
    rows = [
        (name, one.stage, one.p50_ms, one.p99_ms, one.bound_ms(ceilings))
        for name, times in found.items()
        for one in times
    ]
    columns = ("variant", "stage", "p50 ms", "p99 ms", "bound ms")
    if as_json:
        console.show_json({"ceilings": ceilings, "stages": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        console.show_table(f"{requests} requests, texts read by {backend}", columns, rows)


def serve(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A compressed bundle, or a folder of versions with a champion.")
    ],
    store: Annotated[str, typer.Option("--store", help="Where events lie: a file, or postgresql://…")] = "events.db",
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen on.")] = 8080,
    keys: Annotated[Path | None, typer.Option("--keys", help="The file that lanner keys writes.")] = None,
    engine: Annotated[
        Literal["single", "ray"] | None,
        typer.Option("--engine", help="single: this process answers. ray: replicas that Ray runs do."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, help="With --engine ray: how many there are at least.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the server in TOML.")] = None,
    overrides: Overrides = None,
) -> None:
    """Serve recommendations over HTTP, with events, items, users and a page at /.

    A folder of versions is followed: who promotes another champion changes what is served, without a request lost.

    Examples:

      lanner serve lanner-bundle

      lanner serve bundles --set 'experiment={name="new", arms={champion=0.9, challenger=0.1}}' --set shadow_share=0.05

      lanner serve lanner-bundle --store postgresql://shop@db/events --host 0.0.0.0 --keys keys.toml

      lanner serve lanner-bundle --engine ray --replicas 2 --set ray.most_replicas=8
    """
    with _no_garbage_yet():
        from dataclasses import replace

        from lanner.serving.running import ServerConfig, check, serve, with_engine
        from lanner.settings import overlay, overridden, read_toml

        chosen = ServerConfig(str(path), store)
        if config is not None:
            chosen = overlay(chosen, read_toml(config), f"{config}: ")
        chosen = overridden(chosen, overrides or ())
        chosen = replace(chosen, bundle=str(path), store=store, host=host, port=port, keys=str(keys or ""))
        chosen = with_engine(chosen, engine or chosen.engine, replicas)
        check(chosen)
        address = f"http://{'localhost' if host in ('0.0.0.0', '127.0.0.1') else host}:{port}"
        console.show_line(f"The page: {address}/   (Ctrl-C stops the server)")
        question = """-H 'content-type: application/json' -d '{"text": "slow science fiction", "k": 5}'"""
        console.show_line(f"A question: curl {address}/v1/recommend {question}")
        serve(chosen)


@contextmanager
def _no_garbage_yet() -> Iterator[None]:
    """Of what is read at the start nothing is garbage, and to look for it takes a sixth of the time.

    The server collects again once it has started.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


keys_app = typer.Typer(help="Who may ask the server what.", no_args_is_help=True, rich_markup_mode=None)
KeyFilePath = Annotated[Path, typer.Option("--file", help="The file with the keys' hashes.")]


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[
        Literal["read", "write", "admin"], typer.Option("--role", help="Each may do what those before it may.")
    ],
    file: KeyFilePath = Path("keys.toml"),
) -> None:
    """Make a key and show it this once; the file keeps a hash of it.

    Examples:

      lanner keys add shop-frontend --role read
    """
    from lanner.serving.http.keys import create

    console.show_line(create(file, role, name))


@keys_app.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="Whose key.")], file: KeyFilePath = Path("keys.toml")) -> None:
    """Take a key back; a running server knows within seconds.

    Examples:

      lanner keys revoke shop-frontend
    """
    from lanner.serving.http.keys import revoke

    revoke(file, name)


events_app = typer.Typer(help="What a server was told.", no_args_is_help=True, rich_markup_mode=None)


@events_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    store: Annotated[str, typer.Option("--store", help="Where events lie: a file, or postgresql://…")] = "events.db",
    as_json: AsJson = False,
) -> None:
    """Write a store's events as Parquet, which the next run can learn from.

    Examples:

      lanner events export events.parquet --store events.db
    """
    from lanner.serving.store import open_store
    from lanner.serving.store.export import export_events

    opened = open_store(store)
    try:
        number = export_events(opened, out)
    finally:
        opened.close()
    if as_json:
        console.show_json({"events": number, "file": str(out)})
    else:
        console.show_line(f"{number} events in {out}: lanner run {out}")
