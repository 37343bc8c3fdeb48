"""The variants of a bundle: one model in several sizes, from the full one down to popularity.

A variant is a scoring model and, if texts are used, an encoder in the formats of several runtimes. Its arrays are
memory-mapped; other files are read and verified on demand.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from lanner.errors import ConfigError
from lanner.files import mapped_arrays, read_checked
from lanner.inference.cold_start import ItemReader
from lanner.inference.scoring_model import ScoringModel
from lanner.models.text_features import TextFeatures

FULL, INT8, POPULARITY = "full", "int8", "popularity"
"""Names of the first and last variant of every bundle, and of the full model with INT8 tables."""
_MODEL = "scoring.safetensors"
_TOKENIZER, _TEXTS, _WORDS, _ITEMS = "tokenizer.json", "texts.safetensors", "words.json", "items.safetensors"


@dataclass(frozen=True)
class Variant:
    """One variant. files: encoder files by role (``encoder.onnx``, ``encoder.safetensors``, …).

    figures: measurements, and ``encoder_shape`` if there is an encoder; JSON-compatible.
    """

    name: str
    model: ScoringModel
    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the model and the encoder."""
        return self.model.num_bytes + self.encoder_bytes

    @property
    def encoder_bytes(self) -> int:
        """Size of the encoder in its smallest format (a runtime loads one); 0 without an encoder."""
        sizes = {role: len(data) for role, data in self.files.items()}
        openvino = sizes.get("encoder.xml", 0) + sizes.get("encoder.bin", 0)
        stored = [sizes.get("encoder.onnx", 0), sizes.get("encoder.safetensors", 0), openvino]
        return min((size for size in stored if size), default=0)


@dataclass(frozen=True)
class TextFiles:
    """How texts are encoded: feature settings, the tokenizer's JSON, the maximum length in tokens."""

    features: TextFeatures
    tokenizer: str
    max_tokens: int


class _Files(Mapping[str, bytes]):
    """A variant's files by role, read and verified on each access: a runtime reads a few of them once."""

    def __init__(self, read: Callable[[str], bytes], name: str, roles: Sequence[str]) -> None:
        self._read, self._name, self._roles = read, name, roles

    def __getitem__(self, role: str) -> bytes:
        if role not in self._roles:
            raise KeyError(role)
        return self._read(f"{self._name}.{role}")

    def __contains__(self, role: object) -> bool:
        return role in self._roles

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


def pack_variants(variants: Sequence[Variant]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Bytes by file name, and the manifest entries."""
    files: dict[str, bytes] = {}
    facts: dict[str, Any] = {}
    for variant in variants:
        arrays = {name: np.ascontiguousarray(array) for name, array in variant.model.arrays().items()}
        named = {_MODEL: save(arrays), **variant.files}
        files |= {f"{variant.name}.{role}": data for role, data in named.items()}
        roles = [role for role in named if role != _MODEL]
        facts[variant.name] = {"model": variant.model.facts, "roles": roles, "figures": dict(variant.figures)}
    return files, facts


def read_variant(folder: Path, name: str, manifest: Mapping[str, Any]) -> Variant:
    """Read one variant with memory-mapped arrays.

    Raises:
        ConfigError: unknown variant. BundleError: a damaged file.
    """
    if name not in manifest["variants"]:
        raise ConfigError(f"{folder} has no variant '{name}'; it has {', '.join(manifest['variants'])}")
    facts, checksums = manifest["variants"][name], manifest["sha256"]
    model = f"{name}.{_MODEL}"
    return Variant(
        name,
        ScoringModel.from_arrays(mapped_arrays(folder / model, checksums[model]), facts["model"]),
        _Files(lambda file: read_checked(folder / file, checksums[file]), name, facts["roles"]),
        facts["figures"],
    )


def pack_texts(texts: TextFiles | None, items: ItemReader | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Bytes by file name, and the manifest entries, for texts and new items."""
    files: dict[str, bytes] = {}
    facts: dict[str, Any] = {}
    if texts is not None:
        arrays, words = texts.features.state()
        files = {_TOKENIZER: texts.tokenizer.encode(), _TEXTS: save(arrays), _WORDS: json.dumps(words).encode()}
        facts["max_tokens"] = texts.max_tokens
    if items is not None:
        files[_ITEMS] = save({name: np.ascontiguousarray(array) for name, array in items.arrays().items()})
        facts["items"] = items.facts
    return files, facts


def read_texts(folder: Path, manifest: Mapping[str, Any]) -> TextFiles | None:
    """How texts are encoded; None if the model does not use texts. Raises ``BundleError`` for a damaged file."""
    if "max_tokens" not in manifest["texts"]:
        return None
    tokenizer, arrays, words = (
        read_checked(folder / name, manifest["sha256"][name]) for name in (_TOKENIZER, _TEXTS, _WORDS)
    )
    features = TextFeatures.from_state(load(arrays), json.loads(words))
    return TextFiles(features, tokenizer.decode(), int(manifest["texts"]["max_tokens"]))


def read_items(folder: Path, manifest: Mapping[str, Any]) -> ItemReader | None:
    """How new items are scored from texts; None if the model does not use texts. Raises ``BundleError``."""
    if "items" not in manifest["texts"]:
        return None
    arrays = mapped_arrays(folder / _ITEMS, manifest["sha256"][_ITEMS])
    return ItemReader.from_arrays(arrays, manifest["texts"]["items"])
