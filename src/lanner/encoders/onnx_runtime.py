"""ONNX Runtime: on the CPU, and on a GPU through TensorRT."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lanner.encoders.contract import TextReader
from lanner.errors import BundleError, ConfigError, optional_module


class OnnxRuntimeReader(TextReader):
    """Reads ``encoder.onnx``, float32 or INT8 as the variant has it."""

    backend: ClassVar[str] = "onnxruntime"
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    """The first must be there; the others take what it leaves."""

    def _open(self) -> None:
        self._library = optional_module("onnxruntime", "onnxruntime", "onnx", f"the backend '{self.backend}'")
        if self.providers[0] not in self._library.get_available_providers():
            raise ConfigError(
                f"the backend '{self.backend}' needs ONNX Runtime's {self.providers[0]}, which this build lacks; "
                "install onnxruntime-gpu beside the libraries it asks for, or choose another backend"
            )

    def _load_encoder(self) -> Any:
        if "encoder.onnx" not in self.variant.files:
            raise ConfigError(f"the variant '{self.variant.name}' has no encoder.onnx; choose the backend 'torch'")
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Threads wait for the next operator awake, which of a short text is a fourth of the time, but between two
        # requests they sleep: idle ones of one session must not take the cores from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            # Fused skip connections keep INT8 products from being fused with their scales: a fifth slower.
            return self._library.InferenceSession(
                self.variant.files["encoder.onnx"],
                options,
                providers=list(self.providers),
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except Exception as error:  # the library's own errors have no common root
            first = str(error).splitlines()[0]
            raise BundleError(f"{self.variant.name}.encoder.onnx: ONNX Runtime cannot read it ({first})") from error

    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._encoder.run(None, {"ids": ids_TL, "mask": mask_TL})[0])


class TensorRtReader(OnnxRuntimeReader):
    """The same files through TensorRT on an NVIDIA GPU; what it cannot take runs on CUDA, the rest on the CPU."""

    backend: ClassVar[str] = "tensorrt"
    providers: ClassVar[tuple[str, ...]] = (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
