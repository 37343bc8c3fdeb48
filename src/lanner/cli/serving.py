"""The commands that prepare and run a service: compress, serve, keys, events."""

import gc
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, BundlePath, Threads, existing_store, group, require_msgspec
from lanner.errors import ConfigError, MissingExtraError, optional_module

if TYPE_CHECKING:
    from lanner.serving.bootstrap import ServerConfig


def compress(
    bundle: BundlePath,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write the new bundle to; default: BUNDLE-compressed.")
    ] = None,
    max_ndcg_loss: Annotated[
        float,
        typer.Option(
            "--max-ndcg-loss", help="Largest acceptable loss of validation ndcg@10, as a share of the full variant's."
        ),
    ] = 0.005,
    target: Annotated[
        str, typer.Option("--target", help="What the best variant minimises: latency or size.")
    ] = "latency",
    seconds: Annotated[float, typer.Option("--seconds", help="Time budget for distillation, in seconds.")] = 300.0,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", help="Add the variant embeddings-N: the whole model as N factors per item, such as 64."
        ),
    ] = None,
    threads: Threads = 2,
    as_json: AsJson = False,
) -> None:
    """Compress a bundle into smaller variants; evaluate and benchmark each.

    The variants are written as a new bundle; BUNDLE is not changed.

    \b
    Examples:
      lanner compress lanner-bundle
      lanner compress lanner-bundle --dimensions 64
      lanner compress lanner-bundle --out small --max-ndcg-loss 0.01 --target size --seconds 60 --json
    """
    optional_module("torch", "torch", "train", "compression")
    from lanner.artifacts.variants import POPULARITY
    from lanner.compress import compress as compressed
    from lanner.compress import latency_ms
    from lanner.compression.encoder import EncoderRecipe
    from lanner.compression.steps import Budget

    budget, recipe = Budget(max_ndcg_loss, target), EncoderRecipe(seconds=seconds)
    made = compressed(bundle, out, budget, recipe, threads, console.Stages(), dimensions)
    if as_json:
        figures = {name: facts["figures"] for name, facts in made.manifest["variants"].items()}
        console.show_json({"bundle": str(made.path), "variants": figures, **made.report})
        return
    variants, steps = made.manifest["variants"], made.report["steps"]
    latencies = {name: latency_ms(facts["figures"]) for name, facts in variants.items()}
    # A step of the search that became no variant was not benchmarked.
    rows = [(*step.values(), latencies.get(step["name"]) or "") for step in steps]
    title = f"Evaluated on {made.report['validation_users']:,} validation users"
    console.show_table(title, ("step", "ndcg@10", "relative loss", "kept", "p50 ms"), rows)
    popular = any(step["name"] == POPULARITY and step["kept"] for step in steps)
    impersonal = f" ({POPULARITY} is not personal, so never chosen)" if popular else ""
    console.show_line(
        f"Lowest {target} within the accepted loss: {made.report['best']}{impersonal}. Wrote {made.path}. "
        f"Serve it: lanner serve {made.path}"
    )


AcceleratorBackend = Annotated[
    Literal["fpga-emulator"] | None,
    typer.Option("--backend", help="Answer from the emulated accelerator, as --set model.accelerator=emulator does."),
]
ServerOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change any setting of the server, such as retention.days=400; repeatable."
    ),
]


def serve(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a bundle, or of versions with a champion.")],
    store: Annotated[
        str | None,
        typer.Option(
            "--store", envvar="LANNER_STORE", help="Event store: a file (default: events.db), or postgresql://…"
        ),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port. Default: 8080.")] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="File of API keys, as lanner keys writes it.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes. Default: one per core, at most 4.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option("--engine", help="Where to serve. local: on this machine (default). ray: as Ray Serve replicas."),
    ] = None,
    backend: AcceleratorBackend = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, help="With --engine ray: minimum number of replicas.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with settings; see docs/settings.md.")
    ] = None,
    overrides: ServerOverrides = None,
) -> None:
    """Serve recommendations over HTTP: an API at /v1, and a page at /.

    An option overrides --set, which overrides --config. In a folder of versions the champion is served, and a newly
    promoted one replaces it without losing a request.

    \b
    Examples:
      lanner serve lanner-bundle
      lanner serve bundles --set 'experiment={name="new", arms={champion=0.9, challenger=0.1}}' --set shadow_share=0.05
      lanner serve lanner-bundle --store postgresql://shop@db/events --host 0.0.0.0 --keys keys.toml --workers 8
      lanner serve lanner-bundle --engine ray --replicas 2 --set ray.most_replicas=8 --store postgresql://shop@db/events
    """
    with _gc_disabled():
        _require_extra()
        from lanner.serving.bootstrap import check
        from lanner.serving.supervisor import serve

        options = {
            "store": store,
            "host": host,
            "port": port,
            "keys": None if keys is None else str(keys),
            "workers": workers,
            "engine": engine,
            "ray.replicas": replicas,
            "model.accelerator": None if backend is None else "emulator",
        }
        chosen = _server_config(path, config, overrides or (), options)
        check(chosen)
        _show_address(chosen)
        serve(chosen)


def _show_address(config: "ServerConfig") -> None:
    host = "localhost" if config.host in ("0.0.0.0", "127.0.0.1", "::", "::1") else config.host
    address = f"http://{host}:{config.port}"
    console.show_line(f"Page: {address}/   (Ctrl-C stops the server)")
    body = shlex.quote(json.dumps({"history": _example_history(config), "k": 5}, ensure_ascii=False))
    console.show_line(f"Try: curl {address}/v1/recommend -H 'content-type: application/json' -d {body}")


def _example_history(config: "ServerConfig") -> list[str]:
    """Up to three item ids from the champion's golden requests, without reading model or dataset."""
    from lanner.artifacts.bundle import read_bundle
    from lanner.serving.bootstrap import versions_of
    from lanner.serving.versions.registry import CHAMPION

    versions = versions_of(config)
    requests = read_bundle(versions.path(versions.aliases()[CHAMPION])).golden["requests"]
    return [str(one) for one in requests[0]["history"][:3]] if requests else []


def _server_config(
    path: Path, file: Path | None, overrides: Sequence[str], options: Mapping[str, str | int | None]
) -> "ServerConfig":
    """The file's settings, overridden by ``--set``, overridden by the given options."""
    from lanner.serving.bootstrap import ServerConfig
    from lanner.settings import overlay, overridden, read_toml, with_options

    chosen: ServerConfig = ServerConfig(str(path))
    if file is not None:
        chosen = overlay(chosen, read_toml(file), f"{file}: ")
    chosen = with_options(overridden(chosen, overrides), {"bundle": str(path), **options})
    if options["ray.replicas"] is not None and chosen.engine != "ray":
        raise ConfigError("--replicas needs --engine ray; --workers sets the processes of this machine")
    return chosen


def _require_extra() -> None:
    """Raises MissingExtraError if a package of the extra ``serving`` is missing."""
    for module in ("msgspec", "uvicorn", "httptools", "uvloop", "prometheus_client", "faiss"):
        if find_spec(module) is None:
            raise MissingExtraError(module.replace("_", "-"), "serving", "the server")


@contextmanager
def _gc_disabled() -> Iterator[None]:
    """Disable garbage collection while loading, where it finds nothing and takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


keys_app = group("Manage API keys.")
KeyFilePath = Annotated[Path, typer.Option("--file", help="File of API keys; it stores only hashes.")]


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Name of the key's holder.")],
    role: Annotated[
        Literal["read", "write", "admin"],
        typer.Option("--role", help="What the key allows: read, write or admin; each includes those before it."),
    ],
    file: KeyFilePath = Path("keys.toml"),
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it, once; the file stores only its hash.

    \b
    Examples:
      lanner keys add shop-frontend --role read
    """
    require_msgspec("a file of keys")
    from lanner.serving.http.keys import create

    key = create(file, role, name)
    console.show_result({"name": name, "role": role, "key": key, "file": str(file)}, key, as_json=as_json)


@keys_app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Name of the key's holder.")],
    file: KeyFilePath = Path("keys.toml"),
    as_json: AsJson = False,
) -> None:
    """Revoke an API key; running servers notice within seconds.

    \b
    Examples:
      lanner keys revoke shop-frontend
    """
    require_msgspec("a file of keys")
    from lanner.serving.http.keys import revoke

    revoke(file, name)
    console.show_result({"revoked": name, "file": str(file)}, f"Revoked the key of {name}", as_json=as_json)


events_app = group("Manage the event log.")


@events_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .parquet.")],
    store: Annotated[str, typer.Option("--store", help="Event store: a file, or postgresql://…")] = "events.db",
    as_json: AsJson = False,
) -> None:
    """Export the event log to a Parquet file that lanner run and lanner train read.

    \b
    Examples:
      lanner events export events.parquet --store events.db
    """
    require_msgspec("an event store")
    from lanner.serving.store import open_store
    from lanner.serving.store.export import export_events

    with closing(open_store(existing_store(store))) as opened:
        number = export_events(opened, out)
    line = f"Wrote {number} events to {out}. Train on them: lanner train {out}"
    console.show_result({"events": number, "file": str(out)}, line, as_json=as_json)
