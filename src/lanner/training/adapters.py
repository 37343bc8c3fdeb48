"""Which weights of a language model are trained: its own, or adapters that the library peft puts beside them."""

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
from lanner.files import FolderKind, write_folder
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
_ADAPTER = FolderKind("an adapter", ADAPTER_FILES[0], lambda told: ADAPTER_FILES if told["peft_type"] else ())
_MODEL = FolderKind(
    "a language model",
    "config.json",
    lambda told: _MODEL_FILES if told["model_type"] else (),
)
"""What ``save`` may replace."""


def check_packages(config: AdaptationConfig) -> None:
    """Raises ``MissingExtraError`` where peft or bitsandbytes is needed and not installed."""
    if config.uses_adapters and find_spec("peft") is None:
        raise MissingExtraError("peft", "adapt", f"adaptation.method={config.method}")
    if config.base_bits != 32 and find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "qlora", f"adaptation.base_bits={config.base_bits}")


def trainable_tower(language: LanguageEncoder, config: AdaptationConfig, dtype: torch.dtype | None = None) -> TextTower:
    """The language model with the parameters that ``config`` trains, on the device of ``language``.

    dtype: of frozen weights; None: that of the arithmetic.

    Raises:
        ConfigError: more trained layers than there are, unknown target modules, or a rank above their dimensions.
        MissingExtraError: peft or bitsandbytes is not installed.
    """
    check_packages(config)
    if dtype is None:
        # Frozen weights need no more digits than they are multiplied with.
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
    """Tensors that replace those of the language model, by name; adapters are merged."""
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
    """Write the adapters in the format of peft, or a tower without adapters as a model of transformers.

    Raises:
        StorageError: the disk refused, or something else stands there; what stood there still stands.
    """
    with TemporaryDirectory() as draft:
        if _has_adapters(tower):
            _write_adapter(tower, Path(draft))
        else:
            LanguageEncoder(language.config, trained_weights(tower, language)).save_model(Path(draft))
        kind = _ADAPTER if _has_adapters(tower) else _MODEL
        names = ADAPTER_FILES if _has_adapters(tower) else _MODEL_FILES
        files = [Path(draft) / name for name in names]
        write_folder(folder, {file.name: file.read_bytes() for file in files if file.exists()}, kind=kind)


def _with_adapters(model: nn.Module, config: AdaptationConfig, first_layer: int) -> nn.Module:
    # It imports bitsandbytes where that is installed, which then tells of kernels that nobody asked for.
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
            # Autocast sees to it, without a detour to float32.
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would pack 4-bit weights for inference, and no gradient passes through those.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
    return adapted


def _least_dimension(module: nn.Module) -> int:
    """The smaller side of a linear layer; 0 for any other module."""
    if isinstance(module, nn.Linear):  # quantised ones too
        return min(module.in_features, module.out_features)
    weight = getattr(module, "weight", None)
    return min(weight.shape) if type(module).__name__ == "Conv1D" and weight is not None else 0  # GPT-2's


def _has_adapters(tower: TextTower) -> bool:
    return hasattr(tower.model, "peft_config")


def _write_adapter(tower: TextTower, folder: Path) -> None:
    model: Any = tower.model
    model.save_pretrained(folder, save_embedding_layers=False)
