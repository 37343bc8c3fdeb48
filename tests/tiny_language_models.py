"""Language models with random weights, small enough for a test."""

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")

WORDS = [f"w{number}" for number in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_VOCABULARY = len(SPECIAL + WORDS)


def save_model(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a model and its tokenizer. kind: bert, mpnet (encoders), llama, gpt2 (decoders) or t5."""
    torch.manual_seed(seed)
    transformers.AutoModel.from_config(_settings(kind)).save_pretrained(folder)
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: row for row, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    return folder


def _settings(kind: str) -> "transformers.PretrainedConfig":
    if kind == "bert":
        return transformers.BertConfig(vocab_size=_VOCABULARY, max_position_embeddings=32, **_SIZES)
    if kind == "mpnet":
        return transformers.MPNetConfig(vocab_size=_VOCABULARY, max_position_embeddings=34, **_SIZES)
    if kind == "llama":
        sizes = _SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 32}
        return transformers.LlamaConfig(vocab_size=_VOCABULARY, **sizes)
    if kind == "gpt2":
        return transformers.GPT2Config(vocab_size=_VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=32)
    return transformers.T5Config(vocab_size=_VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=4, num_heads=4)
