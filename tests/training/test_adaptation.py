"""A tiny language model learns which texts go together; adapters, caches and checkpoints change nothing of what it learns."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_language_models import save_model

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError, DataError, Interrupted, MissingExtraError, StorageError
from lanner.models.language import LanguageConfig, LanguageEncoder
from lanner.models.neural import NeuralRecommender
from lanner.models.neural_config import NeuralConfig
from lanner.training import adaptation as module
from lanner.training import adapters
from lanner.training.adaptation import EncoderAdaptation
from lanner.training.batches import TextBatches
from lanner.training.checkpoint import FILE
from lanner.training.config import AdaptationConfig, TrainingConfig
from lanner.training.item_texts import ItemTexts, TrainedVectors
from lanner.training.loop import Loop, Trainer

peft = pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

NETWORK = NeuralConfig(
    views=("language",), fusion="sum", language_dimensions=8, meaning_dimensions=16, word_dimensions=0
)
TRAINING = TrainingConfig(epochs=2, patience=2, batch_users=40, learning_rate=0.01, device="cpu")
LORA = AdaptationConfig("lora", rank=4, tokens_per_step=400, epochs=2, dtype="float32")


def bookshop() -> Dataset:
    """Users like items of one kind; of 12 words an item has one of its kind, which only training can tell from noise."""
    random = np.random.default_rng(0)
    kinds = random.integers(3, size=60)
    words = lambda kind: [f"w{random.integers(20)}" for _ in range(11)] + [f"w{40 + 6 * kind + random.integers(6)}"]
    texts = [" ".join(random.permutation(words(kind))) for kind in kinds]
    texts = [f"{text[:12].strip()}\n{text[12:].strip()}" if row % 7 else text for row, text in enumerate(texts)]
    texts[5] = ""
    events = [
        (user, item)
        for user in range(90)
        for item in random.choice(np.flatnonzero(kinds == user % 3), 8, replace=False)
    ]
    user, item = np.array(events, np.int32).T
    users, items = (IdMap([f"{kind}{row}" for row in range(count)]) for kind, count in (("u", 90), ("i", 60)))
    return Dataset(
        Interactions(user, item), users, items, Catalogue(tuple(texts), items.external), Catalogue.blank(users.external)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    kinds = ("bert", "mpnet", "llama", "gpt2", "t5")
    return {kind: save_model(kind, tmp_path_factory.mktemp(kind)) for kind in kinds}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def split():
    return random_ratio(bookshop(), 0.2, 0.2)


def language_of(folder: Path, **changes) -> LanguageEncoder:
    return LanguageEncoder(LanguageConfig(**{"model": str(folder), "dtype": "float32", "max_tokens": 30} | changes))


def adapted(folder, split, config=LORA, checkpoint=None, **changes) -> LanguageEncoder:
    run = EncoderAdaptation(config, NETWORK, TRAINING, checkpoint, progress=False)
    return run(language_of(folder, **changes), split.train, split.validation)


TEXTS = ["w1 w2 w3", "w50", "w40 w7", "w3 w2 w1 w9 w44"]
THOROUGH = replace(LORA, epochs=12, patience=12)


@pytest.fixture(scope="module")
def learned(folders, split, tmp_path_factory):
    """An adaptation that was run to its end, and the language model that it gave."""
    folder = tmp_path_factory.mktemp("adapter") / "bookshop"
    run = EncoderAdaptation(replace(THOROUGH, output=str(folder)), NETWORK, TRAINING, progress=False)
    return run, run(language_of(folders["bert"]), split.train, split.validation), folder


def test_the_language_model_learns_which_texts_go_together(learned, folders):
    run, language, _ = learned
    qualities = [quality for _, quality in run.curve]
    assert max(qualities) > 1.3 * qualities[0]
    assert run.num_trained < 0.5 * sum(weight.numel() for weight in language.model.parameters())
    assert np.abs(language.encode(TEXTS) - language_of(folders["bert"]).encode(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("change", [{"method": "dora"}, {"method": "full"}, {"trained_layers": 1}])
def test_every_way_of_training_helps(folders, split, change):
    run = EncoderAdaptation(replace(THOROUGH, epochs=6, **change), NETWORK, TRAINING, progress=False)
    run(language_of(folders["bert"]), split.train, split.validation)
    assert max(quality for _, quality in run.curve) > 1.1 * run.curve[0][1]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoders_are_adapted_too(folders, split, kind, pooling):
    assert adapted(folders[kind], split, THOROUGH, pooling=pooling).weights
