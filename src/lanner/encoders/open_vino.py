"""OpenVINO on the CPU."""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lanner.encoders.contract import TextReader
from lanner.errors import BundleError, ConfigError, optional_module

_TOGETHER = 4
"""Texts are batched in this size or one by one, padded to a few lengths (``padded_length``): the plugin compiles and
caches INT8 kernels per shape, 5 ms and 3 MiB each. Larger batches are hardly faster."""


@cache
def _core() -> Any:
    """A process-wide core that is never destroyed.

    The CPU plugin installs a signal stack in the loading thread and removes it with the core. If cores are destroyed in
    another order, a thread keeps an unmapped signal stack, and the next signal (Ctrl-C) kills the process.
    """
    import openvino

    return openvino.Core()


class _Requests:
    """A compiled model with a pool of inference requests, one per concurrent thread."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle = [compiled.create_infer_request()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Copied: the next inference overwrites the request's buffer.
            return np.array(next(iter(request.infer(inputs).values())))
        finally:
            self._idle.append(request)


class OpenVinoReader(TextReader):
    """Runs ``encoder.xml`` and ``encoder.bin`` (INT8) if the variant has them, else ``encoder.onnx``."""

    backend: ClassVar[str] = "openvino"

    def _open(self) -> None:
        optional_module("openvino", "openvino", "openvino", "the backend 'openvino'")

    def _load_encoder(self) -> Any:
        files, name = self.variant.files, self.variant.name
        if "encoder.xml" in files:
            model, weights = files["encoder.xml"], files["encoder.bin"]
        elif "encoder.onnx" in files:
            model, weights = files["encoder.onnx"], b""
        else:
            raise ConfigError(f"the variant '{name}' has no encoder for OpenVINO; choose the backend 'torch'")
        # Full precision, to match the reference: the plugin would use bfloat16 if the CPU supports it.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        try:
            read = _core().read_model(model=model, weights=weights) if weights else _core().read_model(model)
            compiled = _core().compile_model(read, "CPU", {**options, "INFERENCE_NUM_THREADS": self.threads})
            return _Requests(compiled)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise BundleError(f"{name}.encoder: OpenVINO cannot read it ({first})") from error

    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        fours = len(ids_TL) // _TOGETHER
        bounds = [*range(0, fours * _TOGETHER, _TOGETHER), *range(fours * _TOGETHER, len(ids_TL) + 1)]
        return np.concatenate([self._few(ids_TL[a:b], mask_TL[a:b]) for a, b in pairwise(bounds)])

    def _few(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Pad to a shape that was compiled before, if possible."""
        longest = int(mask_TL.sum(axis=1).max())
        length = min(padded_length(longest), self.texts.max_tokens)
        padded_2TL = np.zeros((2, len(ids_TL), length), np.int64)
        padded_2TL[0, :, :longest], padded_2TL[1, :, :longest] = ids_TL[:, :longest], mask_TL[:, :longest]
        return np.asarray(self._encoder({"ids": padded_2TL[0], "mask": padded_2TL[1]}))


def padded_length(tokens: int) -> int:
    """8, 16, 24, 32, then 48, 64, 96, 128, …: two lengths per doubling, so that few shapes are compiled."""
    step = max(8, 1 << max(0, (tokens - 1).bit_length() - 2))
    return -(-tokens // step) * step
