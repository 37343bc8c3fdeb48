"""Runtimes by name. Each is imported when it is asked for, so that none is needed that is not used."""

from collections.abc import Callable, Sequence

from lanner.artifacts.ladder import Rung, TextReader
from lanner.errors import ConfigError
from lanner.serving.backends.contract import Backend

Build = Callable[[Rung, TextReader | None, int, Backend | None], Backend]


def _torch(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.torch import TorchBackend

    return TorchBackend(rung, reader, threads, like)


def _compiled(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.torch import CompiledTorchBackend

    return CompiledTorchBackend(rung, reader, threads, like)


def _cuda(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.torch import CudaBackend

    return CudaBackend(rung, reader, threads, like)


def _onnx_runtime(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(rung, reader, threads, like)


def _tensorrt(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.onnx_runtime import TensorRtBackend

    return TensorRtBackend(rung, reader, threads, like)


def _open_vino(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.open_vino import OpenVinoBackend

    return OpenVinoBackend(rung, reader, threads, like)


def _numba(rung: Rung, reader: TextReader | None, threads: int, like: Backend | None) -> Backend:
    from lanner.serving.backends.numba import NumbaBackend

    return NumbaBackend(rung, reader, threads, like)


BACKENDS: dict[str, Build] = {
    "torch": _torch,
    "torch-compile": _compiled,
    "onnxruntime": _onnx_runtime,
    "openvino": _open_vino,
    "numba": _numba,
    "cuda": _cuda,
    "tensorrt": _tensorrt,
}


def open_backend(
    name: str, rung: Rung, reader: TextReader | None = None, threads: int = 1, others: Sequence[Backend] = ()
) -> Backend:
    """A rung loaded into a runtime. others: open ones, of which one that has the same encoder lends it.

    Raises:
        ConfigError: no such backend, or it cannot run this rung. MissingExtraError: its library is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend '{name}'; choose one of {', '.join(BACKENDS)}")
    digest = rung.encoder_digest
    same = (one for one in others if one.name == name and one.rung.encoder_digest == digest and one.reads_texts)
    return BACKENDS[name](rung, reader, threads, next(same, None) if digest else None)


__all__ = ["BACKENDS", "Backend", "open_backend"]
