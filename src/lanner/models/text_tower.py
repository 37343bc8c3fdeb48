"""A language model in training: from token ids, or from activations below its trained layers, to vectors."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lanner.errors import ConfigError
from lanner.models.language import pool
from lanner.models.neural_config import Pooling

_TOLERANCE = 1e-4
"""Maximum difference between vector entries of a whole and a truncated model, in float32."""


class TextTower(nn.Module):
    """Vectors of texts by a transformers model, pooled and scaled as in ``LanguageEncoder``.

    Embeddings and layers below ``first_layer``, if it is above 0, are frozen. The model's dropout stays off: vectors of
    different steps are compared, and attention with dropout has no fast kernel on a CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        pooling: Pooling,
        normalise: bool,
        first_layer: int = 0,
        in_bfloat16: bool = False,
        checkpointing: bool = False,
    ) -> None:
        """in_bfloat16: run the model under autocast to it; vectors are float32 either way.

        checkpointing: recompute the activations of a batch in the backward pass instead of keeping them.
        """
        super().__init__()
        self.model, self.first_layer, self.in_bfloat16 = model, first_layer, in_bfloat16
        self._pooling, self._normalise, self._checkpointing = pooling, normalise, checkpointing
        self._injected: Tensor | None = None
        model.eval()
        layers_of(model)[first_layer].register_forward_pre_hook(self._inject, with_kwargs=True)
        if first_layer:
            above = set(layers_of(model)[first_layer:].parameters())
            for parameter in model.parameters():
                parameter.requires_grad_(parameter.requires_grad and parameter in above)

    def train(self, mode: bool = True) -> "TextTower":
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, hidden_BLD: Tensor | None = None) -> Tensor:
        """Vectors, float32 ``[B, D]``.

        ids_BL, mask_BL: int64, padded on the right. hidden_BLD: the output of ``below`` for them; None: computed.
        """
        if self._checkpointing and torch.is_grad_enabled():
            vectors: Tensor = checkpoint(self._vectors, ids_BL, mask_BL, hidden_BLD, use_reentrant=False)
            return vectors
        return self._vectors(ids_BL, mask_BL, hidden_BLD)

    @torch.no_grad()
    def below(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Activations that enter the first trained layer, ``[B, L, D]``."""

        def stop(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            raise _LayerReached(arguments[0] if arguments else options["hidden_states"])

        hook = layers_of(self.model)[self.first_layer].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run(ids_BL, mask_BL)
        except _LayerReached as reached:
            return reached.hidden_BLD
        finally:
            hook.remove()
        raise AssertionError("every layer is run")

    @torch.no_grad()
    def cut(self, ids_BL: Tensor, mask_BL: Tensor) -> None:
        """Drop the frozen layers: from here on ``forward`` needs ``hidden_BLD``.

        ids_BL, mask_BL: some texts, on which it is checked that vectors stay the same.

        Raises:
            ConfigError: the model's upper layers need more of the lower ones than their activations.
        """
        gave: list[Any] = []
        layers = layers_of(self.model)
        hook = layers[0].register_forward_hook(lambda module, arguments, output: gave.append(output))
        before = self._vectors(ids_BL, mask_BL, None)
        hook.remove()
        hidden_BLD = self.below(ids_BL, mask_BL)
        for number in range(self.first_layer):
            layers[number] = _Skipped(gives_tuple=isinstance(gave[0], tuple))
        try:
            differs = not torch.allclose(before, self._vectors(ids_BL, mask_BL, hidden_BLD), atol=_TOLERANCE)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            differs = True
        if differs:
            adapted = getattr(self.model, "get_base_model", None)  # peft's wrapper does not name the family
            kind = type(self.model if adapted is None else adapted()).__name__
            raise ConfigError(f"{kind} cannot be run from cached activations; set adaptation.cache=false")

    def _vectors(self, ids_BL: Tensor, mask_BL: Tensor, hidden_BLD: Tensor | None) -> Tensor:
        self._injected = hidden_BLD
        hidden = self._run(ids_BL, mask_BL).last_hidden_state
        self._injected = None
        return self.pooled(hidden, mask_BL)

    def pooled(self, hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors, float32 ``[B, D]``, from the output of the last layer."""
        vectors_BD = pool(hidden_BLD.float(), mask_BL, self._pooling)
        return nn.functional.normalize(vectors_BD, dim=1) if self._normalise else vectors_BD

    def _run(self, ids_BL: Tensor, mask_BL: Tensor) -> Any:
        with torch.autocast(ids_BL.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            return self.model(input_ids=ids_BL, attention_mask=mask_BL)

    def _inject(self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self._injected is None:
            return None
        if arguments:
            return (self._injected, *arguments[1:]), options
        return (), options | {"hidden_states": self._injected}


class _Skipped(nn.Module):
    """Stands in for a layer whose output is known."""

    def __init__(self, *, gives_tuple: bool) -> None:
        super().__init__()
        self._gives_tuple = gives_tuple

    def forward(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        return (hidden_states,) if self._gives_tuple else hidden_states


class _LayerReached(Exception):
    def __init__(self, hidden_BLD: Tensor) -> None:
        super().__init__()
        self.hidden_BLD = hidden_BLD


def layers_of(model: nn.Module) -> nn.ModuleList:
    """The stack of layers of any encoder or decoder: its longest list of modules.

    Raises:
        ConfigError: the model has none.
    """
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no list of layers that could be adapted")
    return max(found, key=len)
