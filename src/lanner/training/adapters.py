"""The trained weights of a language model: its own, or peft adapters."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lanner.errors import ConfigError, MissingExtraError, optional_module
from lanner.files import FolderKind, check_replaceable, write_folder
from lanner.models.language import (
    ADAPTER_FILES,
    LanguageEncoder,
    merged_weights,
    multiplies_bfloat16,
    wrapping_by_peft,
)
from lanner.models.text_tower import TextTower, layers_of
from lanner.training.config import AdaptationConfig

_Weights = Mapping[str, NDArray[np.float32]]
_MODEL_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja"),
)
_ADAPTER = FolderKind("an adapter", ADAPTER_FILES[0], lambda content: ADAPTER_FILES if content["peft_type"] else ())
_MODEL = FolderKind(
    "a language model",
    "config.json",
    lambda content: _MODEL_FILES if content["model_type"] else (),
)
"""The folders that ``save`` may replace."""


def check_packages(config: AdaptationConfig) -> None:
    """Raises ``MissingExtraError`` if peft or bitsandbytes is needed and not installed."""
    if config.uses_adapters and find_spec("peft") is None:
        raise MissingExtraError("peft", "adapt", f"adaptation.method={config.method}")
    if config.base_bits != 32 and find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "qlora", f"adaptation.base_bits={config.base_bits}")


def trainable_tower(language: LanguageEncoder, config: AdaptationConfig, dtype: torch.dtype | None = None) -> TextTower:
    """The language model with the parameters that ``config`` trains, on the device of ``language``.

    dtype: of frozen weights; None: that of the arithmetic.

    Raises:
        ConfigError: more trained layers than the model has, unknown target modules, or a rank above their dimensions.
        MissingExtraError: peft or bitsandbytes is not installed.
    """
    check_packages(config)
    if dtype is None:
        # Frozen weights need no more precision than the arithmetic.
        dtype = torch.bfloat16 if config.uses_adapters and uses_bfloat16(language, config) else torch.float32
    model = language.read_model(dtype, config.base_bits)
    total = len(layers_of(model))
    if config.trained_layers > total:
        raise ConfigError(f"adaptation.trained_layers={config.trained_layers} exceeds the {total} layers of the model")
    first_layer = total - config.trained_layers if config.trained_layers else 0
    if config.uses_adapters:
        model = _with_adapters(model, config, first_layer)
    else:
        model.requires_grad_()
    tower = TextTower(
        model,
        pooling=language.config.pooling,
        normalise=language.config.normalise,
        first_layer=first_layer,
        in_bfloat16=uses_bfloat16(language, config),
        checkpointing=config.checkpointing,
    )
    return tower if config.base_bits != 32 else tower.to(language.device)


def uses_bfloat16(language: LanguageEncoder, config: AdaptationConfig) -> bool:
    """Whether the model's arithmetic is in bfloat16."""
    return config.dtype == "bfloat16" or (config.dtype == "auto" and multiplies_bfloat16(language.device))


def trained_weights(tower: TextTower, language: LanguageEncoder) -> _Weights:
    """Tensors that override the language model's, by name; adapters are merged."""
    base = language.read_model(torch.float32)
    if _has_adapters(tower):
        with TemporaryDirectory() as folder:
            _write_adapter(tower, Path(folder))
            changed = merged_weights(base, Path(folder))
    else:
        before = base.state_dict()
        trained = {name: value.detach().cpu() for name, value in tower.model.named_parameters() if value.requires_grad}
        changed = {name: value.numpy() for name, value in trained.items() if not torch.equal(value, before[name])}
    return {**language.weights, **changed}


def save(tower: TextTower, language: LanguageEncoder, folder: Path) -> None:
    """Write the adapters in peft's format, or a tower without adapters as a ``transformers`` model.

    Raises:
        StorageError: writing failed, or ``folder`` holds something else; existing contents are unchanged.
    """
    with TemporaryDirectory() as draft:
        if _has_adapters(tower):
            _write_adapter(tower, Path(draft))
        else:
            LanguageEncoder(language.config, trained_weights(tower, language)).save_model(Path(draft))
        names = ADAPTER_FILES if _has_adapters(tower) else _MODEL_FILES
        files = [Path(draft) / name for name in names]
        write_folder(folder, {file.name: file.read_bytes() for file in files if file.exists()}, kind=_kind_of(tower))


def check_output(tower: TextTower, folder: Path) -> None:
    """Raises ``StorageError`` if ``folder`` holds something that ``save`` may not replace."""
    check_replaceable(folder, _kind_of(tower))


def _kind_of(tower: TextTower) -> FolderKind:
    return _ADAPTER if _has_adapters(tower) else _MODEL


def _with_adapters(model: nn.Module, config: AdaptationConfig, first_layer: int) -> nn.Module:
    # peft imports bitsandbytes if installed, which then logs irrelevant messages about kernels.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    peft = optional_module("peft", "peft", "adapt", f"adaptation.method={config.method}")
    layers = layers_of(model)
    path = next(name for name, module in model.named_modules() if module is layers)
    linear = {
        f"{path}.{number}.{name}": size
        for number in range(first_layer, len(layers))
        for name, module in layers[number].named_modules()
        if (size := _least_dimension(module))
    }
    available = sorted({name.rpartition(".")[2] for name in linear})
    unknown = [name for name in config.target_modules if name not in available]
    if unknown:
        raise ConfigError(
            f"adaptation.target_modules: the layers of the model have no '{unknown[0]}'; they have "
            f"{', '.join(available)}"
        )
    chosen = {
        name: size for name, size in linear.items() if name.rpartition(".")[2] in (config.target_modules or available)
    }
    most = min(chosen.values())
    if config.rank > most:
        raise ConfigError(f"adaptation.rank={config.rank} exceeds the {most} dimensions of a target module")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(chosen), use_dora=config.method == "dora"
    )
    with wrapping_by_peft(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        adapted: nn.Module = peft.get_peft_model(model, settings)
    for module in adapted.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # Autocast does the cast, without a detour through float32.
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would pack 4-bit weights for inference, which does not support gradients.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
    return adapted


def _least_dimension(module: nn.Module) -> int:
    """The smaller dimension of a linear layer; 0 for any other module."""
    if isinstance(module, nn.Linear):  # including quantised ones
        return min(module.in_features, module.out_features)
    weight = getattr(module, "weight", None)
    return min(weight.shape) if type(module).__name__ == "Conv1D" and weight is not None else 0  # GPT-2's


def _has_adapters(tower: TextTower) -> bool:
    return hasattr(tower.model, "peft_config")


def _write_adapter(tower: TextTower, folder: Path) -> None:
    model: Any = tower.model
    model.save_pretrained(folder, save_embedding_layers=False)
