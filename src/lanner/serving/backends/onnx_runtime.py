"""ONNX Runtime: on the CPU, and on a GPU through TensorRT."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lanner.errors import BundleError, ConfigError, MissingExtraError
from lanner.serving.backends.contract import PaddedBackend


class OnnxRuntimeBackend(PaddedBackend):
    """Reads ``network.onnx`` and ``encoder.onnx``, float32 or INT8 as the rung has them."""

    name: ClassVar[str] = "onnxruntime"
    providers: ClassVar[tuple[str, ...]] = ("CPUExecutionProvider",)
    """The first must be there; the others take what it leaves."""

    def _open(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnx", f"the backend '{self.name}'") from None
        self._library = onnxruntime
        if self.providers[0] not in onnxruntime.get_available_providers():
            raise ConfigError(
                f"the backend '{self.name}' needs ONNX Runtime's {self.providers[0]}, which this build lacks; "
                "install onnxruntime-gpu beside the libraries it asks for, or choose another backend"
            )

    def _load_network(self) -> Any:
        return self._session("network.onnx")

    def _load_encoder(self) -> Any:
        return self._session("encoder.onnx")

    def _session(self, role: str) -> Any:
        if role not in self.rung.files:
            raise ConfigError(f"the variant '{self.rung.name}' has no {role}; choose the backend 'torch'")
        options = self._library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Threads wait for the next operator awake, which of a short text is a fourth of the time, but between two
        # requests they sleep: idle ones of one session must not take the cores from the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            # Fused skip connections keep INT8 products from being fused with their scales: a fifth slower.
            return self._library.InferenceSession(
                self.rung.files[role],
                options,
                providers=list(self.providers),
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except Exception as error:  # the library's own errors have no common root
            first = str(error).splitlines()[0]
            raise BundleError(f"{self.rung.name}.{role}: ONNX Runtime cannot read it ({first})") from error

    def score_vectors(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._network.run(None, {"users": users_BD})[0])

    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._encoder.run(None, {"ids": ids_TL, "mask": mask_TL})[0])


class TensorRtBackend(OnnxRuntimeBackend):
    """The same files through TensorRT on an NVIDIA GPU; what it cannot take runs on CUDA, the rest on the CPU."""

    name: ClassVar[str] = "tensorrt"
    providers: ClassVar[tuple[str, ...]] = (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
