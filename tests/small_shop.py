"""A small shop with its own language model: from files to a bundle that can be compressed and served."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lanner.compression.encoder import EncoderRecipe
from lanner.config import from_dict, with_seed
from lanner.pipeline import run

transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

WORDS = [f"w{number}" for number in range(40)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
RECIPE = """
name = "small-shop"
folder = "."
[interactions]
file = "events.csv"
user = "user"
item = "item"
[items]
file = "items.csv"
id = "item"
title = "title"
text = ["{title}", "{about}"]
attributes = { shelf = "" }
[users]
file = "users.csv"
id = "user"
text = ["{likes}"]
attributes = { club = "" }
"""
QUICK = EncoderRecipe(layers=1, seconds=2.0, epochs=2, spans=1)


def language_model(folder: Path) -> Path:
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: row for row, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    shape = transformers.BertConfig(vocab_size=len(SPECIAL + WORDS), max_position_embeddings=32, **sizes)
    transformers.BertModel(shape).save_pretrained(folder)
    return folder


def dataset(folder: Path) -> Path:
    random = np.random.default_rng(0)
    write = lambda name, header, rows: (folder / name).write_text("\n".join([header, *rows]) + "\n")
    likes = {user: user % 3 for user in range(40)}
    events = [
        f"u{user},i{item}"
        for user, group in likes.items()
        for item in random.choice(20, 8, replace=False) + 20 * group * (random.random() < 0.9)
    ]
    write("events.csv", "user,item", events)
    text = lambda group: " ".join(random.choice(WORDS[group * 10 : group * 10 + 12], 6))
    items = [f"i{row},{text(row // 20)},{text(row // 20)},shelf{row // 20}" for row in range(60)]
    write("items.csv", "item,title,about,shelf", items)
    write("users.csv", "user,likes,club", [f"u{user},{text(group)},club{group}" for user, group in likes.items()])
    (folder / "shop.toml").write_text(RECIPE)
    return folder / "shop.toml"


def make_shop(folder: Path, seed: int = 0) -> Path:
    """Train a hybrid and write its bundle below ``folder``; another seed gives another version of the same shop."""
    encoder = {"model": str(language_model(folder / "model")), "cache": False, "dtype": "float32", "max_tokens": 32}
    network = {"dimensions": 8, "language_dimensions": 8, "filter_rank": 8, "word_dimensions": 8, "encoder": encoder}
    config = from_dict(
        {
            "model": "hybrid",
            "data": {"path": str(dataset(folder))},
            "neural": network,
            "training": {"epochs": 3, "batch_users": 16, "device": "cpu"},
        }
    )
    run(with_seed(config, seed), folder / "bundle", measure=False)
    return folder / "bundle"
