"""OpenVINO on the CPU."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lanner.serving.backends.contract import Backend
from lanner.vocabulary import BundleError, ConfigError, MissingExtraError


class OpenVinoBackend(Backend):
    """Reads ``encoder.xml`` and ``encoder.bin`` where the rung has them (INT8), else the float32 ONNX files."""

    name: ClassVar[str] = "openvino"

    def _open(self) -> None:
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino", "the backend 'openvino'") from None
        self._core = openvino.Core()

    def _load_network(self) -> Any:
        return self._compiled("network")

    def _load_encoder(self) -> Any:
        return self._compiled("encoder")

    def _compiled(self, role: str) -> Any:
        files = self.rung.files
        if f"{role}.xml" in files:
            model, weights = files[f"{role}.xml"], files[f"{role}.bin"]
        elif f"{role}.onnx" in files:
            model, weights = files[f"{role}.onnx"], b""
        else:
            raise ConfigError(f"the variant '{self.rung.name}' has no {role} for OpenVINO; choose the backend 'torch'")
        # Results that agree with the oracle: the plugin would otherwise round to bfloat16 where the processor can.
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            read = self._core.read_model(model=model, weights=weights) if weights else self._core.read_model(model)
            return self._core.compile_model(read, "CPU", options).create_infer_request()
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise BundleError(f"{self.rung.name}.{role}: OpenVINO cannot read it ({first})") from error

    def score_vectors(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(next(iter(self._network.infer({"users": users_BD}).values())))

    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.array(next(iter(self._encoder.infer({"ids": ids_TL, "mask": mask_TL}).values())))
