"""Encoders of texts in runtimes, by name. Each is imported when it is asked for, so that none is needed unused."""

import platform
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from lanner.artifacts.variants import TextFiles, Variant
from lanner.encoders.contract import TextReader
from lanner.errors import ConfigError, MissingExtraError

BACKENDS = {
    "torch": "torch_runtime.TorchReader",
    "torch-compile": "torch_runtime.CompiledTorchReader",
    "onnxruntime": "onnx_runtime.OnnxRuntimeReader",
    "openvino": "open_vino.OpenVinoReader",
    "cuda": "torch_runtime.CudaReader",
    "tensorrt": "onnx_runtime.TensorRtReader",
}
"""Readers by backend: module of this package, and class."""
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch"}


def open_text_reader(variant: Variant, texts: TextFiles, backend: str | None = None, threads: int = 1) -> TextReader:
    """The encoder of a variant, loaded into a runtime; None: the quickest that is installed.

    Raises:
        ConfigError: no such backend, or it cannot run this variant. MissingExtraError: its library is not installed.
    """
    name = backend or installed_backend(variant)
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")
    module, _, reader = BACKENDS[name].partition(".")
    kind: type[TextReader] = getattr(import_module(f"lanner.encoders.{module}"), reader)
    return kind(variant, texts, threads)


def processor(facts: Path = Path("/proc/cpuinfo")) -> tuple[str, bool]:
    """Its name, and whether it has products for INT8 (VNNI), as Linux tells."""
    try:
        told = facts.read_text(errors="replace")
    except OSError:
        told = ""
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine(), "vnni" in told


def preferred(cpu_facts: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Runtimes on a CPU, the quickest first.

    OpenVINO reads INT8 quickly where the processor has products for it (VNNI): a text of 32 tokens took 3.1 ms and
    ONNX Runtime 3.4; without them 11.4 and 4.7. cpu_facts: as Linux tells them.
    """
    return ("openvino", "onnxruntime", "torch") if processor(cpu_facts)[1] else ("onnxruntime", "openvino", "torch")


def installed_backend(variant: Variant) -> str:
    """The quickest runtime that is installed and finds its files in the variant.

    Raises:
        MissingExtraError: there is none.
    """
    has_graph = "encoder.onnx" in variant.files or "encoder.xml" in variant.files
    for name in preferred():
        if find_spec(_PACKAGES[name]) is not None and (has_graph or name == "torch"):
            return name
    raise MissingExtraError("onnxruntime", "onnx", "reading texts")


__all__ = ["BACKENDS", "TextReader", "installed_backend", "open_text_reader", "preferred"]
