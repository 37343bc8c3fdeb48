"""ONNX Runtime on the CPU, and on NVIDIA GPUs through TensorRT."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lanner.encoders.contract import TextReader
from lanner.errors import BundleError, ConfigError, optional_module


class OnnxRuntimeReader(TextReader):
    """Runs ``encoder.onnx``, float32 or INT8 depending on the variant."""

    backend: ClassVar[str] = "onnxruntime"
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    """The first is required; the others are fallbacks."""

    def _open(self) -> None:
        self._library = optional_module("onnxruntime", "onnxruntime", "onnx", f"the backend '{self.backend}'")
        if self.providers[0] not in self._library.get_available_providers():
            raise ConfigError(
                f"the backend '{self.backend}' needs ONNX Runtime with {self.providers[0]}, which this build lacks; "
                "install onnxruntime-gpu with its libraries, or choose another backend"
            )

    def _load_encoder(self) -> Any:
        if "encoder.onnx" not in self.variant.files:
            raise ConfigError(f"the variant '{self.variant.name}' has no encoder.onnx; choose the backend 'torch'")
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Threads spin while waiting for the next operator (a quarter of a short text's time) but sleep between
        # requests, so that idle sessions do not occupy the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            # Fused skip connections prevent the fusion of INT8 products with their scales: 20 % slower.
            return self._library.InferenceSession(
                self.variant.files["encoder.onnx"],
                options,
                providers=list(self.providers),
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except Exception as error:  # the library's exceptions have no common base class
            first = str(error).splitlines()[0]
            raise BundleError(f"{self.variant.name}.encoder.onnx: ONNX Runtime cannot read it ({first})") from error

    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._encoder.run(None, {"ids": ids_TL, "mask": mask_TL})[0])


class TensorRtReader(OnnxRuntimeReader):
    """The same files through TensorRT on an NVIDIA GPU; unsupported operators run on CUDA or the CPU."""

    backend: ClassVar[str] = "tensorrt"
    providers: ClassVar[tuple[str, ...]] = (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
