"""Project checks: lines, files, and whether the server gives the library's answers for every model.

``python -m benchmarks.house`` writes ``house.json``. Each model is trained on ml-latest-small by ``lanner train``,
saved, served by ``lanner serve`` and queried once over HTTP for a user and once for a history; the lists must equal,
item by item, those of the library and of the command line. ``ranking_paths``: 1 for ``Ranker.rank``, and 1 more for
each interface (library, command line, evaluation, server) that still answers if ``Ranker.rank`` does not.

``import_lanner_ms`` and ``help_ms`` are medians of whole processes. ``client_install_mib`` and ``serving_install_mib``
are the sizes of fresh environments with that extra alone, without pip and setuptools; neither may contain torch.
``reproduce_quick``: minutes of ``lanner reproduce --quick`` in a new folder, and processor minutes of its processes;
``--reproduce`` measures them alone and leaves the rest of the record as it is.
``cases_right`` of ``cases``: small inputs like those in public bug reports, in a folder next to the project.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import _record
from benchmarks._serving_servers import free_port
from tests.test_cases import CASES, run_cases

SEED = 0
K = 10
USER, HISTORY = "42", ["260", "1196", "1210"]
MODELS = ("popularity", "item-knn", "ease", "ials", "graph-filter", "lightgcn", "language", "gnn", "hybrid")
_QUICK = ("training.epochs=3",)
"""For the trained models: their quality does not matter here."""
_TRAINED = ("lightgcn", "language", "gnn", "hybrid")
_SOURCE = Path(__file__).parents[1] / "src" / "lanner"
_PATIENCE_S = 120.0
_STARTS = 8
"""Number of timed process starts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="count only, and train nothing; nothing is recorded")
    parser.add_argument("--reproduce", action="store_true", help="only time lanner reproduce --quick")
    options = parser.parse_args()
    if options.reproduce:
        earlier = json.loads((_record.RESULTS / "house.json").read_text())["results"]
        _write(earlier | {"reproduce_quick": reproduce_quick()})
        return
    results: dict[str, Any] = {"sizes": sizes(), "ranking_paths": ranking_paths()}
    results["front_door"] = front_door(short=options.short)
    results["models"] = {} if options.short else {name: served(name) for name in MODELS}
    results["summary"] = {
        **results["sizes"],
        **results["front_door"],
        "models_served": [name for name, found in results["models"].items() if found["equal"]],
        "ranking_paths": len(results["ranking_paths"]),
    }
    if options.short:
        print(json.dumps(results["summary"], indent=1))
        return
    _write(results | {"reproduce_quick": reproduce_quick()})


def _write(results: dict[str, Any]) -> None:
    settings = {"k": K, "user": USER, "history": HISTORY, "models": MODELS, "trained_with": _QUICK}
    print(_record.record("house", seed=SEED, settings=settings, results=results))


def reproduce_quick() -> dict[str, Any]:
    """Minutes of the short form of every experiment, which must not have run before, and of its processors."""
    with tempfile.TemporaryDirectory() as folder:
        begun, before = time.perf_counter(), os.times()
        checkout = str(_SOURCE.parents[1])
        _lanner("reproduce", "--quick", "--checkout", checkout, "--out", folder)
        after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"minutes": (time.perf_counter() - begun) / 60, "cpu_minutes": cpu / 60, "commit": _record._commit()}


def sizes() -> dict[str, int]:
    """Lines of Python, as ``wc -l`` counts them, and files."""
    lines = {path: len(path.read_text().splitlines()) for path in _SOURCE.rglob("*.py")}
    serving = {path: count for path, count in lines.items() if path.is_relative_to(_SOURCE / "serving")}
    return {
        "src_lines": sum(lines.values()),
        "serving_lines": sum(serving.values()),
        "serving_files": len(serving),
        "src_files": len(lines),
    }


def served(model: str) -> dict[str, Any]:
    """Train, save, serve and query; how the answers compare."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / model
        begun = time.perf_counter()
        settings = [part for one in _QUICK for part in ("--set", one)] if model in _TRAINED else []
        _lanner("train", "ml-latest-small", "--model", model, "--out", str(bundle), *settings)
        trained_s = time.perf_counter() - begun
        by_library = [_library(bundle, user=USER), _library(bundle, history=HISTORY)]
        by_command = [_command(bundle, "--user", USER), _command(bundle, "--history", ",".join(HISTORY))]
        with _server(bundle, Path(folder)) as port:
            by_server = [_server_answer(port, user_id=USER), _server_answer(port, history=HISTORY)]
    equal = by_library == by_command == by_server and all(len(one) == K for one in by_library)
    print(model, "equal" if equal else f"differs: {by_library} {by_command} {by_server}", flush=True)
    return {"equal": equal, "trained_s": trained_s, "answers": by_library}


def _library(bundle: Path, user: str | None = None, history: list[str] | None = None) -> list[str]:
    import lanner

    users, histories = (None if one is None else [one] for one in (user, history))
    found: list[str] = lanner.load(bundle).recommend(users, histories=histories, k=K)["item_id"].to_list()
    return found


def _command(bundle: Path, *who: str) -> list[str]:
    answer = json.loads(_lanner("recommend", str(bundle), *who, "-k", str(K), "--json"))
    return [item["item"] for item in answer["items"]]


def _server_answer(port: int, **request: Any) -> list[str]:
    body = json.dumps({**request, "k": K, "deadline_ms": 10_000}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", body, {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return [item["item_id"] for item in json.load(reply)["items"]]


@contextmanager
def _server(bundle: Path, folder: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "lanner", "serve", str(bundle), "--port", str(port)]
    child = subprocess.Popen([*command, "--store", str(folder / "events.db")], stdout=subprocess.DEVNULL)
    try:
        last = time.monotonic() + _PATIENCE_S
        while not _is_ready(port):
            if child.poll() is not None or time.monotonic() > last:
                raise RuntimeError(f"lanner serve {bundle.name} is not ready (exit code {child.poll()})")
            time.sleep(0.1)
        yield port
    finally:
        child.terminate()
        child.wait(30)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _lanner(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lanner", *arguments], capture_output=True, text=True, env={**os.environ}
    )
    if done.returncode:
        raise RuntimeError(f"lanner {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


# --- the front door --------------------------------------------------------------------------------------------------


def front_door(*, short: bool = False) -> dict[str, Any]:
    """Times of the first steps, sizes of installations, and small inputs that must be read correctly."""
    bare = _median_ms(sys.executable, "-c", "pass")
    found: dict[str, Any] = {
        "python_start_ms": bare,
        "import_lanner_ms": _median_ms(sys.executable, "-c", "import lanner") - bare,
        "help_ms": _median_ms(str(Path(sys.executable).with_name("lanner")), "--help"),
    }
    if not short:
        found |= {f"{extra}_install_mib": _install_mib(extra) for extra in ("client", "serving")}
    if CASES.is_dir():
        right = run_cases(CASES)
        found |= {"cases_right": sum(right.values()), "cases": len(right)}
    return found


def _median_ms(*command: str) -> float:
    times = []
    for _ in range(_STARTS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times[1:])  # the first run has cold caches


def _install_mib(extra: str) -> float:
    """MiB of a fresh environment with one extra.

    Raises:
        RuntimeError: torch was installed as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        before = set(packages.iterdir())
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", "constraints.txt", f".[{extra}]"], cwd=_SOURCE.parents[1], check=True)
        if (packages / "torch").exists():
            raise RuntimeError(f"lanner[{extra}] installs torch")
        files = [file for entry in set(packages.iterdir()) - before for file in (entry, *entry.rglob("*"))]
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


# --- one path ------------------------------------------------------------------------------------------------------


class _NoAnswerError(Exception):
    """Raised instead of ranking."""


def ranking_paths() -> list[str]:
    """``Ranker.rank``, and the interfaces that answer without it."""
    from lanner.inference.ranker import Ranker

    original = Ranker.rank

    def refuse(*_: Any) -> Any:
        raise _NoAnswerError

    paths = ["lanner.inference.ranker.Ranker.rank"]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        _lanner("run", "ml-latest-small", "--model", "item-knn", "--out", str(bundle))
        ways = _ways(bundle)
        Ranker.rank = refuse  # type: ignore[method-assign]
        try:
            paths += [name for name, way in ways.items() if _answers(way)]
        finally:
            Ranker.rank = original  # type: ignore[method-assign]
    return paths


def _ways(bundle: Path) -> dict[str, Callable[[], object]]:
    """By name; each is opened before it is queried."""
    import asyncio

    import lanner
    from lanner.cli.main import app
    from lanner.pipeline import measured_bundle, open_bundle
    from lanner.serving.deployment import Deployment, ServiceConfig
    from lanner.serving.messages import RecommendRequest
    from lanner.serving.store import open_store

    opened = open_bundle(bundle)
    library = lanner.load(bundle)
    loop, store = asyncio.new_event_loop(), open_store(str(bundle.parent / "events.db"))
    deployment = Deployment.open(bundle, store, config=ServiceConfig(answers_held=0))
    deployment.warm_up()
    request = RecommendRequest(history=HISTORY, deadline_ms=10_000)
    return {
        "library": lambda: library.recommend([USER], k=K),
        "command line": lambda: app(["recommend", str(bundle), "--user", USER], standalone_mode=False),
        "evaluation": lambda: measured_bundle(opened),
        "server": lambda: loop.run_until_complete(deployment.recommend(request)),
    }


def _answers(way: Callable[[], object]) -> bool:
    try:
        way()
    except BaseException as error:  # a command exits with SystemExit
        return not _is_ours(error)
    return True


def _is_ours(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _NoAnswerError):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
