"""Encoders of texts in runtimes, by name. Each is imported when it is asked for, so that none is needed unused."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lanner.artifacts.variants import TextFiles, Variant
from lanner.encoders.contract import TextReader
from lanner.errors import ConfigError, MissingExtraError


def _torch() -> type[TextReader]:
    from lanner.encoders.torch_runtime import TorchReader

    return TorchReader


def _compiled() -> type[TextReader]:
    from lanner.encoders.torch_runtime import CompiledTorchReader

    return CompiledTorchReader


def _cuda() -> type[TextReader]:
    from lanner.encoders.torch_runtime import CudaReader

    return CudaReader


def _onnx_runtime() -> type[TextReader]:
    from lanner.encoders.onnx_runtime import OnnxRuntimeReader

    return OnnxRuntimeReader


def _tensorrt() -> type[TextReader]:
    from lanner.encoders.onnx_runtime import TensorRtReader

    return TensorRtReader


def _open_vino() -> type[TextReader]:
    from lanner.encoders.open_vino import OpenVinoReader

    return OpenVinoReader


BACKENDS: dict[str, Callable[[], type[TextReader]]] = {
    "torch": _torch,
    "torch-compile": _compiled,
    "onnxruntime": _onnx_runtime,
    "openvino": _open_vino,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
}
_PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch"}


def open_text_reader(
    variant: Variant, texts: TextFiles, backend: str | None = None, threads: int = 1, cache: Path | None = None
) -> TextReader:
    """The encoder of a variant, loaded into a runtime; None: the quickest that is installed.

    Raises:
        ConfigError: no such backend, or it cannot run this variant. MissingExtraError: its library is not installed.
    """
    name = backend or installed_backend(variant)
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[name]()(variant, texts, threads, cache)


def preferred(cpu_facts: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Runtimes on a CPU, the quickest first.

    OpenVINO reads INT8 quickly where the processor has products for it (VNNI): a text of 32 tokens took 3.1 ms and
    ONNX Runtime 3.4; without them 11.4 and 4.7. cpu_facts: as Linux tells them.
    """
    try:
        facts = cpu_facts.read_text(errors="replace")
    except OSError:
        facts = ""
    return ("openvino", "onnxruntime", "torch") if "vnni" in facts else ("onnxruntime", "openvino", "torch")


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
