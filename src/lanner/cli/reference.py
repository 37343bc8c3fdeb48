"""The command that lists every setting of a model."""

from typing import TYPE_CHECKING, Annotated

import typer

from lanner.cli import console, options

if TYPE_CHECKING:
    from lanner.settings import Setting


def settings(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help=f"Only settings that affect it: {options.MODEL_NAMES}.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the settings of lanner run and lanner train: name, type, default and meaning.

    Set one with --set NAME=VALUE, or in a TOML file given to --config.

    \b
    Examples:
      lanner settings
      lanner settings ease
      lanner settings hybrid --json
    """
    found = settings_of(model)
    if as_json:
        console.show_json([{name: getattr(one, name) for name in COLUMNS} for one in found])
        return
    rows = [(one.name, one.type, console.as_toml(one.default), one.meaning) for one in found]
    console.show_table("Settings" if model is None else f"Settings of {model}", COLUMNS, rows)


COLUMNS = ("name", "type", "default", "meaning")
SHARED_SECTIONS = ("model", "data", "feedback", "split", "evaluation")


def settings_of(model: str | None) -> "list[Setting]":
    """The settings that affect a model; None: all settings.

    Raises:
        ConfigError: no such model.
    """
    from lanner.config import RunConfig
    from lanner.library.keywords import keywords_of
    from lanner.registry import model_builder
    from lanner.settings import described

    every = list(described(RunConfig))
    if model is None:
        return every
    model_builder(model)
    own = {key for one in keywords_of(model).values() for key in one.settings}
    own |= {"parallel"} if "adaptation" in own else set()
    chosen = (*SHARED_SECTIONS, *own)
    return [one for one in every if one.name in chosen or one.name.partition(".")[0] in chosen]
