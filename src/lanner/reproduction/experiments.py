"""Run the experiments: each is a module of ``benchmarks`` in its own process; a run can be resumed."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lanner.errors import ConfigError, Interrupted
from lanner.files import write_file
from lanner.reproduction.claims import Experiment

RESULTS = Path("benchmarks") / "results"
Announce = Callable[[str], None]


def run(
    experiments: Sequence[Experiment], checkout: Path, results: Path, announce: Announce, *, quick: bool
) -> list[str]:
    """Run unfinished experiments; returns the names of those that failed.

    ``results/.done`` lists finished experiments: the same call resumes from there.

    Raises:
        ConfigError: the checkout has no ``benchmarks``. Interrupted: Ctrl-C; finished experiments are kept.
    """
    if not (checkout / "benchmarks" / "_record.py").is_file():
        raise ConfigError(f"{checkout}: no benchmarks here; run it in a checkout of Lanner, or give --from-results")
    results.mkdir(parents=True, exist_ok=True)
    marker = results / ".done"
    done = marker.read_text().splitlines() if marker.exists() else []
    wanted = [one for one in experiments if one.quick or not quick]
    left, failed = [one for one in wanted if one.file not in done], []
    if len(left) < len(wanted):
        announce(f"{len(wanted) - len(left)} of {len(wanted)} experiments are done already ({marker})")
    for place, one in enumerate(left):
        minutes = sum(other.minutes for other in left[place:])
        announce(f"{one.file}: {place + 1} of {len(left)}" + ("" if quick else f", about {minutes:.0f} minutes left"))
        arguments = one.quick if quick else one.command
        command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
        environment = os.environ | {"LANNER_RESULTS": str(results.absolute())}
        try:
            code = subprocess.run(command, cwd=checkout, env=environment, stdout=sys.stderr).returncode
        except KeyboardInterrupt:
            raise Interrupted(f"stopped during {one.file}; the same command resumes from there") from None
        if code:
            failed.append(one.file)
            announce(f"{one.file}: failed with exit code {code}")
            continue
        done.append(one.file)
        write_file(marker, "\n".join(done).encode())
    return failed
