"""The variants of a bundle: one recommender in several sizes, from the full one down to popularity.

A variant is a scoring model and, where texts are read, an encoder in the formats of several runtimes. Its arrays are
mapped, its other files read and checked when they are asked for.
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
"""Names of the first and the last variant of every bundle, and of the one with the full model's tables in INT8."""
_MODEL = "scoring.safetensors"
_TOKENIZER, _TEXTS, _WORDS, _ITEMS = "tokenizer.json", "texts.safetensors", "words.json", "items.safetensors"


@dataclass(frozen=True)
class Variant:
    """One variant. files: what runtimes read, by role (``encoder.onnx``, ``encoder.safetensors``, …).

    figures: what was measured, and ``encoder_shape`` where there is an encoder; JSON can hold it.
    """

    name: str
    model: ScoringModel
    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Of the model and of the encoder."""
        return self.model.num_bytes + self.encoder_bytes

    @property
    def encoder_bytes(self) -> int:
        """In the smallest format it is stored in, for a runtime loads one; 0 where there is none."""
        sizes = {role: len(data) for role, data in self.files.items()}
        openvino = sizes.get("encoder.xml", 0) + sizes.get("encoder.bin", 0)
        stored = [sizes.get("encoder.onnx", 0), sizes.get("encoder.safetensors", 0), openvino]
        return min((size for size in stored if size), default=0)


@dataclass(frozen=True)
class TextFiles:
    """How texts are read: their features, the tokenizer's JSON, the longest text in tokens."""

    features: TextFeatures
    tokenizer: str
    max_tokens: int


class _Files(Mapping[str, bytes]):
    """A variant's files by role, read and checked each time: a runtime needs few, and those once."""

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
    """Bytes by file name, and what the manifest must keep."""
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
    """One variant, its model's arrays mapped.

    Raises:
        ConfigError: there is no such variant. BundleError: a file is damaged.
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
    """Bytes by file name, and what the manifest must keep: how texts, and new items, are read."""
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
    """How texts are read; None for a recommender that reads none. Raises ``BundleError`` for a damaged file."""
    if "max_tokens" not in manifest["texts"]:
        return None
    tokenizer, arrays, words = (
        read_checked(folder / name, manifest["sha256"][name]) for name in (_TOKENIZER, _TEXTS, _WORDS)
    )
    features = TextFeatures.from_state(load(arrays), json.loads(words))
    return TextFiles(features, tokenizer.decode(), int(manifest["texts"]["max_tokens"]))


def read_items(folder: Path, manifest: Mapping[str, Any]) -> ItemReader | None:
    """What the text of a new item becomes; None for a recommender that reads none. Raises ``BundleError``."""
    if "items" not in manifest["texts"]:
        return None
    arrays = mapped_arrays(folder / _ITEMS, manifest["sha256"][_ITEMS])
    return ItemReader.from_arrays(arrays, manifest["texts"]["items"])
