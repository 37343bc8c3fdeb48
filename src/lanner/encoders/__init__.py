"""Text encoder runtimes by name, imported on demand."""

import platform
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lanner.artifacts.variants import TextFiles, Variant
from lanner.encoders.contract import TextReader
from lanner.errors import ConfigError, MissingExtraError, optional_module

BACKENDS = {
    "torch": "torch_runtime.TorchReader",
    "torch-compile": "torch_runtime.CompiledTorchReader",
    "onnxruntime": "onnx_runtime.OnnxRuntimeReader",
    "openvino": "open_vino.OpenVinoReader",
    "cuda": "torch_runtime.CudaReader",
    "tensorrt": "onnx_runtime.TensorRtReader",
}
"""Module of this package and class, by backend name."""
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch"}


def open_text_reader(variant: Variant, texts: TextFiles, backend: str | None = None, threads: int = 1) -> TextReader:
    """Load the text encoder of a variant into a runtime. backend: None: the fastest one installed.

    Raises:
        ConfigError: unknown backend, or it does not support this variant. MissingExtraError: its package is missing.
    """
    name = backend or installed_backend(variant)
    check_backend(name)
    module, _, reader = BACKENDS[name].partition(".")
    if module == "torch_runtime":
        optional_module("torch", "torch", "train", f"the backend '{name}'")
    kind: type[TextReader] = getattr(import_module(f"lanner.encoders.{module}"), reader)
    return kind(variant, texts, threads)


def check_backend(name: str) -> None:
    """Raises ``ConfigError`` for a runtime that is not in ``BACKENDS``."""
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")


def processor(facts: Path = Path("/proc/cpuinfo")) -> tuple[str, bool]:
    """The CPU's name, and whether it has INT8 instructions (VNNI), according to Linux."""
    try:
        told = facts.read_text(errors="replace")
    except OSError:
        told = ""
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine(), "vnni" in told


def preferred(cpu_facts: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """CPU runtimes, fastest first.

    With VNNI, OpenVINO takes 3.1 ms for a text of 32 tokens in INT8 and ONNX Runtime 3.4; without it 11.4 and 4.7.
    cpu_facts: file in the format of /proc/cpuinfo.
    """
    return ("openvino", "onnxruntime", "torch") if processor(cpu_facts)[1] else ("onnxruntime", "openvino", "torch")


def installed_backend(variant: Variant) -> str:
    """The fastest installed runtime with files in the variant.

    Raises:
        MissingExtraError: none is installed.
    """
    has_graph = "encoder.onnx" in variant.files or "encoder.xml" in variant.files
    for name in preferred():
        if find_spec(_PACKAGES[name]) is not None and (has_graph or name == "torch"):
            return name
    raise MissingExtraError("onnxruntime", "onnx", "encoding texts")


__all__ = ["BACKENDS", "TextReader", "check_backend", "installed_backend", "open_text_reader", "preferred"]
