"""The command line: one short function per command. They import packages lazily to keep ``lanner --help`` fast.

Results go to stdout, everything else to stderr. Exit codes: 0; 2 for what the caller can mend (one line says what);
130 after Ctrl-C.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import lanner
from lanner.cli import (
    accelerate,
    answers,
    bundles,
    console,
    datasets,
    doctor,
    export,
    planning,
    profiling,
    reference,
    reproduce,
    serving,
    training,
    tuning,
)
from lanner.errors import LannerError, RanksEndedError

INTERRUPTED = 130

app = typer.Typer(
    name="lanner",
    help="Train, evaluate and serve recommenders that join a graph neural network and a language model.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lanner {lanner.__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, evaluate and serve recommenders that join a graph neural network and a language model."""


for command in (
    *(training.run, training.train, training.update, planning.plan, tuning.tune, training.evaluate, training.compare),
    *(answers.recommend, answers.similar, answers.explain),
    *(reference.settings, serving.compress, accelerate.accelerate, profiling.profile, serving.serve),
    *(reproduce.reproduce, doctor.doctor),
):
    app.command()(command)
for name, group in (
    ("export", export.export_app),
    ("data", datasets.data_app),
    ("bundles", bundles.bundles_app),
    ("experiment", bundles.experiment_app),
    ("keys", serving.keys_app),
    ("events", serving.events_app),
):
    app.add_typer(group, name=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        code = app(args=given, standalone_mode=True, obj=given)
    except RanksEndedError as ended_ranks:
        code = ended_ranks.exit_code
    except LannerError as error:
        console.complain(str(error))
        code = error.exit_code
    except SystemExit as ended:  # how typer exits, silently after Ctrl-C
        code = ended.code
        if code == INTERRUPTED:
            console.complain("stopped; nothing was kept")
    except BrokenPipeError:
        # The reader of our output exited early (| head); Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
