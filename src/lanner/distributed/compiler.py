"""What torch.compile needs besides torch: a C++ compiler and Python's headers."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from lanner.errors import ConfigError


def check_compiler(device: torch.device) -> None:
    """Raises ``ConfigError`` if layers cannot be compiled for this device; torch would say so in the first step.

    On a CPU torch takes the compiler of the environment variable CXX, or g++ (clang++ on macOS, cl on Windows).
    """
    if device.type != "cpu":
        return
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"parallel.compile=true needs a C++ compiler, and '{compiler}' was not found; install it, set the "
            "environment variable CXX to another one, or leave out parallel.compile"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ConfigError(
            f"parallel.compile=true needs Python's headers, and {header} was not found; install them (python3-dev), or "
            "leave out parallel.compile"
        )
