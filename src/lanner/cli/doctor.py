"""The command that collects what a bug report needs: doctor."""

import os
import platform
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import lanner
from lanner.cli import console, options

_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
_GIB = 1 << 30
_NAME, _EXTRA = re.compile(r"[A-Za-z0-9._-]+"), re.compile(r"""extra == ['"]([^'"]+)""")
"""Patterns for a requirement in the package's metadata."""


def doctor(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port that a server would use.")] = 8080,
    folder: Annotated[Path, typer.Option("--folder", help="Folder for bundles and events.")] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Show what a bug report needs: versions, extras, threads, port, disk and GPU.

    Nothing is sent anywhere. Incomplete extras are listed with their missing packages.

    \b
    Examples:
      lanner doctor
      lanner doctor --port 80 --folder /srv/lanner --json
    """
    from importlib.metadata import metadata

    found: dict[str, Any] = {
        "lanner": lanner.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "machine": machine(),
        "packages": packages_of(""),
        "extras": {name: packages_of(name) for name in metadata("lanner").get_all("Provides-Extra") or []},
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "port": {"number": port, "free": is_free(port)},
        "folder": disk_of(folder),
        "gpu": gpu(),
    }
    if as_json:
        console.show_json(found)
        return
    rows = [("lanner", found["lanner"]), ("python", found["python"])]
    rows += [(name, str(value)) for name, value in found["machine"].items()]
    rows += [(f"package {name}", one or "missing") for name, one in found["packages"].items()]
    for name, packages in found["extras"].items():
        missing = [package for package, one in packages.items() if one is None]
        advice = f"missing {', '.join(missing)}: pip install 'lanner[{name}]'"
        rows.append((f"extra {name}", advice if missing else "installed"))
    rows += [(name, value) for name, value in found["threads"].items()]
    rows.append((f"port {port}", "free" if found["port"]["free"] else "in use: choose another with --port"))
    rows += [(f"folder {name}", str(value)) for name, value in found["folder"].items()]
    rows.append(("GPU", found["gpu"]))
    console.show_table("lanner doctor", ("what", "found"), rows)


def packages_of(extra: str) -> dict[str, str | None]:
    """Installed versions of an extra's requirements, None if missing; extra "": Lanner's own requirements."""
    from importlib.metadata import requires

    found: dict[str, str | None] = {}
    for line in requires("lanner") or []:
        named, condition = _NAME.match(line), _EXTRA.search(line)
        if named and (condition[1] if condition else "") == extra:
            found[named[0]] = installed(named[0])
    return found


def installed(package: str) -> str | None:
    """The version of a package; None if it is missing."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """System, cores, memory, and the instruction sets that affect speed, as far as the system reports them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"system": f"{platform.system()} {platform.release()}", "cores": cores}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        flags = set(cpuinfo.read_text().split())
        found["instructions"] = " ".join(one for one in _INSTRUCTIONS if one in flags) or "none of note"
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine's own address."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def disk_of(folder: Path) -> dict[str, Any]:
    """Whether a folder is writable, and the free space on its disk."""
    from lanner.files import is_writable, nearest_existing

    free = shutil.disk_usage(nearest_existing(folder)).free
    return {"path": str(folder.absolute()), "writable": is_writable(folder), "free_gib": round(free / _GIB, 1)}


def gpu() -> str:
    """The GPU that torch would use."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"none that torch {torch.__version__} can use"
