"""PyTorch eager (the reference), compiled, and on a GPU."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from lanner.encoders.contract import TextReader
from lanner.errors import ConfigError
from lanner.models.compact_encoder import CompactEncoder, EncoderShape


class TorchReader(TextReader):
    """Runs ``encoder.safetensors``."""

    backend: ClassVar[str] = "torch"
    device: ClassVar[str] = "cpu"

    def _open(self) -> None:
        torch.set_num_threads(self.threads)

    def _load_encoder(self) -> Any:
        if "encoder.safetensors" not in self.variant.files:
            raise ConfigError(f"the variant '{self.variant.name}' has no encoder.safetensors; choose another backend")
        shape = EncoderShape(**self.variant.figures["encoder_shape"])
        return self._prepared(CompactEncoder.from_state(shape, load(self.variant.files["encoder.safetensors"])))

    def _prepared(self, module: torch.nn.Module) -> Any:
        return module.eval().to(self.device)

    @torch.inference_mode()
    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = (torch.from_numpy(array).to(self.device) for array in (ids_TL, mask_TL))
        return np.asarray(self._encoder(*inputs).float().cpu().numpy())


class CompiledTorchReader(TorchReader):
    """The same module with ``torch.compile`` (needs a C++ compiler), dynamic shapes."""

    backend: ClassVar[str] = "torch-compile"

    def _prepared(self, module: torch.nn.Module) -> Any:
        return torch.compile(super()._prepared(module), dynamic=True)


class CudaReader(TorchReader):
    """The same module on an NVIDIA GPU."""

    backend: ClassVar[str] = "cuda"
    device: ClassVar[str] = "cuda"

    def _open(self) -> None:
        if not torch.cuda.is_available():
            raise ConfigError("the backend 'cuda' needs an NVIDIA GPU that torch sees; choose another backend")
        super()._open()
