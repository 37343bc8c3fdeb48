"""Torch eager, the oracle; compiled; and on a GPU."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from lanner.errors import ConfigError
from lanner.models.compact_encoder import CompactEncoder
from lanner.models.encoder_shape import EncoderShape
from lanner.models.request_network import RequestNetwork
from lanner.serving.backends.contract import PaddedBackend


class TorchBackend(PaddedBackend):
    """Every rung as written: float32 modules, int8 tables unpacked."""

    name: ClassVar[str] = "torch"
    device: ClassVar[str] = "cpu"

    def _open(self) -> None:
        torch.set_num_threads(self.threads)

    def _load_network(self) -> Any:
        return self._prepared(RequestNetwork(self.rung.form))

    def _load_encoder(self) -> Any:
        if "encoder.safetensors" not in self.rung.files:
            raise ConfigError(f"the variant '{self.rung.name}' has no encoder.safetensors; choose another backend")
        shape = EncoderShape(**self.rung.figures["encoder_shape"])
        return self._prepared(CompactEncoder.from_state(shape, load(self.rung.files["encoder.safetensors"])))

    def _prepared(self, module: torch.nn.Module) -> Any:
        return module.eval().to(self.device)

    @torch.inference_mode()
    def score_vectors(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._network(torch.from_numpy(users_BD).to(self.device)).cpu().numpy())

    @torch.inference_mode()
    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = (torch.from_numpy(array).to(self.device) for array in (ids_TL, mask_TL))
        return np.asarray(self._encoder(*inputs).float().cpu().numpy())


class CompiledTorchBackend(TorchBackend):
    """The same modules through ``torch.compile`` (a C++ compiler must be there); shapes may vary."""

    name: ClassVar[str] = "torch-compile"

    def _prepared(self, module: torch.nn.Module) -> Any:
        return torch.compile(super()._prepared(module), dynamic=True)


class CudaBackend(TorchBackend):
    """The same modules on an NVIDIA GPU."""

    name: ClassVar[str] = "cuda"
    device: ClassVar[str] = "cuda"

    def _open(self) -> None:
        if not torch.cuda.is_available():
            raise ConfigError("the backend 'cuda' needs an NVIDIA GPU that torch sees; choose another backend")
        super()._open()
