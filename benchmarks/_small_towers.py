"""Language models with random weights, and text pairs to train them on, for benchmarks of training itself."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from lanner.distributed.chain import Chain, chain_of
from lanner.models.language import pool

VOCABULARY = 512


def small_chain(family: str, *, layers: int = 4, width: int = 64, heads: int = 4, lora: bool = False) -> Chain:
    """A model of a family (bert or llama), the same at each call. lora: with adapters whose second factor is not 0."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 64,
    }
    if family == "bert":
        model: nn.Module = BertModel(BertConfig(**sizes), add_pooling_layer=False)
        targets = ["query", "value", "attention.output.dense"]
    else:
        sizes |= {"num_key_value_heads": 4, "head_dim": width // heads}
        model = Qwen3Model(Qwen3Config(**sizes))
        targets = ["q_proj", "v_proj", "o_proj"]
    if lora:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
    model.eval()

    def normalised(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        return nn.functional.normalize(pool(hidden_BLD, mask_BL, "mean" if family == "bert" else "last"), dim=1)

    return chain_of(model, normalised)


def pairs(step: int, rows: int = 32, length: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and mask ``[rows, length]``, and the number of each row; rows 2i and 2i + 1 share half of their words."""
    draw = torch.Generator().manual_seed(step)
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=draw)
    ids[1::2, : length // 2] = ids[::2, : length // 2]
    lengths = torch.randint(length // 2, length + 1, (rows,), generator=draw)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return ids * mask, mask, torch.arange(rows)


def pairs_loss(vectors_BD: Tensor, target: Any = None) -> Tensor:
    """Cross-entropy of each vector's partner against all other vectors of the batch."""
    scores_BB = vectors_BD @ vectors_BD.T / 0.1
    row_B = torch.arange(len(scores_BB), device=scores_BB.device)
    scores_BB = scores_BB.masked_fill(row_B[:, None] == row_B, -torch.inf)
    return nn.functional.cross_entropy(scores_BB, row_B ^ 1)
