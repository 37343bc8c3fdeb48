"""The commands for bundle versions and experiments: bundles, experiment."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, BundlePath, existing_store, group, require_msgspec
from lanner.errors import ConfigError

if TYPE_CHECKING:
    from lanner.serving.versions.registry import Registry

Folder = Annotated[Path, typer.Option("--folder", help="Folder of the versions.")]
Alias = Annotated[str, typer.Option("--alias", help="Which alias: champion or challenger.")]
VersionName = Annotated[
    str, typer.Argument(metavar="VERSION", help="Id of a version, as lanner bundles list shows it.")
]
FOLDER = Path("bundles")
bundles_app = group("Manage versions of bundles, and the aliases that servers follow.")
experiment_app = group("Report experiments between versions.")


@bundles_app.command("list")
def list_bundles(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """List the versions, newest first, with their aliases.

    \b
    Examples:
      lanner bundles list
      lanner bundles list --folder /srv/bundles --json
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; add a version: lanner bundles add BUNDLE --folder {folder}")
    registry = _registry(folder)
    versions, moves = registry.versions(), registry.moves()
    if as_json:
        found = [{**asdict(one), "path": str(one.path)} for one in versions]
        dated = [
            {"time": datetime.fromtimestamp(one.time, UTC).isoformat(timespec="seconds")}
            | {"alias": one.alias, "version": one.version}
            for one in moves
        ]
        console.show_json({"versions": found, "moves": dated})
        return
    if not versions:
        console.show_line(f"No versions in {folder}; add one: lanner bundles add BUNDLE --folder {folder}")
        return
    rows = [(one.version, one.model, one.created, ", ".join(one.aliases)) for one in versions]
    console.show_table(str(folder), ("version", "model", "written", "aliases"), rows)


@bundles_app.command()
def add(bundle: BundlePath, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Add a bundle as a version, after checking every file and the golden requests of every variant.

    \b
    Examples:
      lanner bundles add lanner-bundle
      lanner bundles add lanner-bundle --folder /srv/bundles --json
    """
    version = _registry(folder).add(bundle)
    line = f"Added version {version}. Serve it: lanner bundles promote {version} --folder {folder}"
    console.show_result({"version": version}, line, as_json=as_json)


@bundles_app.command()
def promote(version: VersionName, alias: Alias = "champion", folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Move an alias to a version; running servers switch to it without losing a request.

    \b
    Examples:
      lanner bundles promote 0f3c9a71d2be
      lanner bundles promote 0f3c9a71d2be --alias challenger --json
    """
    _registry(folder).set_alias(alias, version)
    console.show_result({"alias": alias, "version": version}, f"{alias} is version {version}", as_json=as_json)


@bundles_app.command()
def rollback(alias: Alias = "champion", folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Move an alias back to its previous version.

    \b
    Examples:
      lanner bundles rollback
      lanner bundles rollback --alias challenger --folder /srv/bundles
    """
    version = _registry(folder).rollback(alias)
    console.show_result({"alias": alias, "version": version}, f"{alias} is version {version} again", as_json=as_json)


@bundles_app.command()
def remove(version: VersionName, folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """Delete a version that has no alias.

    \b
    Examples:
      lanner bundles remove 0f3c9a71d2be
      lanner bundles remove 0f3c9a71d2be --folder /srv/bundles
    """
    _registry(folder).remove(version)
    console.show_result({"removed": version}, f"Removed version {version}", as_json=as_json)


@bundles_app.command()
def card(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show the model card of a bundle: data and its terms of use, metrics with intervals, settings, limits.

    \b
    Examples:
      lanner bundles card lanner-bundle
      lanner bundles card lanner-bundle > README.md
    """
    from lanner.artifacts.bundle import read_bundle

    found = read_bundle(bundle).card
    console.show_result({"bundle": str(bundle), "card": found}, found.rstrip("\n"), as_json=as_json)


@experiment_app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the experiment.")],
    store: Annotated[str, typer.Option("--store", help="Event store: a file, or postgresql://user@host/database.")],
    horizon_hours: Annotated[
        float,
        typer.Option("--horizon-hours", help="Hours after an exposure during which an event counts as a conversion."),
    ] = 24.0,
    share: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            metavar="ARM=SHARE",
            help="Configured traffic share of an arm, to test for a sample ratio mismatch; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show conversion rates per arm, and their differences with 95 % confidence intervals over users.

    \b
    Examples:
      lanner experiment report new-model --store events.db
      lanner experiment report new-model --store events.db --share champion=0.9 --share challenger=0.1 --json
    """
    from contextlib import closing

    require_msgspec("an event store")
    from lanner.serving.store import open_store
    from lanner.serving.versions.report import experiment_report

    with closing(open_store(existing_store(store))) as opened:
        found = experiment_report(opened, name, horizon_hours * 3600, _shares(share) if share else None)
    if as_json:
        console.show_json({**asdict(found), "sample_ratio_mismatch": found.sample_ratio_mismatch})
        return
    columns = ("arm", "users", "exposures", "conversions", "per user", "per exposure")
    console.show_table(name, columns, [tuple(asdict(arm).values()) for arm in found.arms])
    rows = [(f"{one.arm} − {one.control}", one.metric, one.difference, *one.ci95, one.p) for one in found.differences]
    console.show_table("95 % intervals over users", ("arms", "rate", "difference", "from", "to", "p"), rows)
    if found.users_in_several_arms:
        console.show_line(f"{found.users_in_several_arms:,} users saw several arms; they count in their first.")
    if found.sample_ratio_p is not None:
        verdict = (
            "sample ratio mismatch: observed traffic shares differ from the configured ones"
            if found.sample_ratio_mismatch
            else "as configured"
        )
        console.show_line(f"Shares of users: p = {found.sample_ratio_p:.4f}, {verdict}.")


def _registry(folder: Path) -> "Registry":
    require_msgspec("a folder of versions")
    from lanner.serving.versions.registry import Registry

    return Registry(folder)


def _shares(options: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for option in options:
        arm, _, share = option.partition("=")
        try:
            shares[arm] = float(share)
        except ValueError:
            raise ConfigError(f"--share '{option}' is not ARM=SHARE, such as challenger=0.1") from None
    return shares
