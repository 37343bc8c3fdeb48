"""Writes a result file: what was measured, on what, by which version of the code."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("LANNER_RESULTS") or Path(__file__).parent / "results")
"""The folder of result files; ``lanner reproduce --quick`` has its own."""
_CHECKOUT = Path(__file__).parents[1]
_PACKAGES = (
    "lanner",
    "numpy",
    "scipy",
    "polars",
    "numba",
    "torch",
    "deepspeed",
    "transformers",
    "sentence-transformers",
    "implicit",
    "torch-geometric",
    "rectools",
    "pandas",
    "onnxruntime",
    "openvino",
    "nncf",
    "faiss-cpu",
    "uvicorn",
    "uvloop",
    "msgspec",
    "lightgbm",
    "psutil",
    "schemathesis",
)
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def record(benchmark: str, *, seed: int, settings: dict[str, Any], results: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/<benchmark>.json`` and return its path.

    The file is written atomically. ``settings`` and ``results`` may hold NumPy scalars.
    """
    entry = {
        "benchmark": benchmark,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "machine": _machine(),
        "versions": _versions(),
        "settings": settings,
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}.json"
    draft = path.with_suffix(".json.partial")
    draft.write_text(json.dumps(entry, indent=1, default=_plain, allow_nan=False) + "\n")
    draft.replace(path)
    return path


def _commit() -> str:
    """The commit measured; ``-dirty`` means that sources differed from it (result files may)."""
    revision = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "benchmarks/*.py", "recipes", "constraints.txt")
    return f"{revision}-dirty" if changed else revision


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_CHECKOUT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": _cpu_name(),
        "instructions": instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def instructions() -> list[str]:
    """Which of ``_INSTRUCTIONS`` the processor has: machines of one name differ, and INT8 depends on them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return [one for one in _INSTRUCTIONS if one in line.split()]
    return []


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, and paths, as JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"a result of type {type(value).__name__} cannot be written as JSON")
