"""Run the experiments: each is a module of ``benchmarks`` in its own process; a run can be resumed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lanner.errors import ConfigError, Interrupted
from lanner.files import write_file
from lanner.reproduction.claims import Experiment

RESULTS = Path("benchmarks") / "results"
MEASURED = ("src", "benchmarks/*.py", "recipes", "constraints.txt")
"""What figures depend on; a new commit of result files or pages does not outdate a finished experiment."""
_MINUTES = ".minutes"
Announce = Callable[[str], None]


def run(
    experiments: Sequence[Experiment], checkout: Path, results: Path, announce: Announce, *, quick: bool
) -> list[str]:
    """Run unfinished experiments; returns the names of those that failed.

    ``results/.done`` lists finished experiments with their command and the commit of the code: the same call resumes
    from there, and after a commit that changes the code everything runs again. An experiment that writes no result file
    (its data are absent) is not finished. ``results/.minutes`` has how long each command took.

    Raises:
        ConfigError: the checkout has no ``benchmarks``. Interrupted: Ctrl-C; finished experiments are kept.
    """
    if not (checkout / "benchmarks" / "_record.py").is_file():
        raise ConfigError(f"{checkout}: no benchmarks here; run it in a checkout of Lanner, or give --checkout FOLDER")
    results.mkdir(parents=True, exist_ok=True)
    marker, commit = results / ".done", _commit(checkout)
    done = marker.read_text().splitlines() if marker.exists() else []
    wanted = [one for one in experiments if one.quick or not quick]
    entries = {one.file: f"{commit} {one.file}: {' '.join(_arguments(one, quick))}" for one in wanted}
    left, failed = [one for one in wanted if entries[one.file] not in done], []
    if len(left) < len(wanted):
        announce(f"{len(wanted) - len(left)} of {len(wanted)} experiments are done already ({marker})")
    for place, one in enumerate(left):
        minutes = sum(other.minutes for other in left[place:])
        announce(f"{one.file}: {place + 1} of {len(left)}" + ("" if quick else f", about {minutes:.0f} minutes left"))
        before, begun = _written(results, one), time.monotonic()
        if code := _code_of(one, checkout, results, quick):
            failed.append(one.file)
            announce(f"{one.file}: failed with exit code {code}")
        elif _written(results, one) == before:
            announce(f"{one.file}: skipped, it wrote no {one.file}.json")
        else:
            done.append(entries[one.file])
            write_file(marker, "\n".join(done).encode())
            took = {" ".join(_arguments(one, quick)): round((time.monotonic() - begun) / 60, 2)}
            write_file(results / _MINUTES, json.dumps(read_minutes(results) | took, indent=1).encode())
    return failed


def read_minutes(results: Path) -> dict[str, float]:
    """Minutes that commands took when they last ran into this folder, by command.

    Raises:
        ConfigError: the file is damaged.
    """
    path = results / _MINUTES
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
        return {str(command): float(minutes) for command, minutes in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not minutes by command ({error}); remove it") from None


def _code_of(one: Experiment, checkout: Path, results: Path, quick: bool) -> int:
    """Run an experiment; returns its exit code."""
    module, *arguments = _arguments(one, quick)
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    environment = os.environ | {"LANNER_RESULTS": str(results.absolute())}
    try:
        return subprocess.run(command, cwd=checkout, env=environment, stdout=sys.stderr).returncode
    except KeyboardInterrupt:
        raise Interrupted(f"stopped during {one.file}; the same command resumes from there") from None


def _arguments(one: Experiment, quick: bool) -> tuple[str, ...]:
    return one.quick if quick else one.command


def _written(results: Path, one: Experiment) -> int | None:
    """When an experiment's result file was last written, in nanoseconds; None if it does not exist."""
    path = results / f"{one.file}.json"
    return path.stat().st_mtime_ns if path.exists() else None


def _commit(checkout: Path) -> str:
    """The last commit that changed ``MEASURED``; empty outside of git."""
    command = ["git", "log", "-1", "--format=%H", "--", *MEASURED]
    try:
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
