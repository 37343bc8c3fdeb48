"""Training steps of language models on a GPU: tokens per second, memory and FLOP utilisation.

    python -m benchmarks.gpu  writes gpu.json; without a CUDA device it says so and writes nothing

An encoder of the default model's shape and a decoder of Qwen3-0.6B's, both with random weights: full fine-tuning and
LoRA, with and without compilation, each a step of ``distributed.engine.Engine`` on one device in bfloat16 (autocast;
weights stay float32). The loss is contrastive, on random tokens; every text has the same length.

FLOP are estimated: 2 per weight of the layers' matrices and token, and 4 per head dimension, head, token and visible
position for attention; twice that again for the backward pass, or once for LoRA, which needs no gradient of frozen
weights. Embeddings, norms, adapters and the optimiser are not counted. Utilisation is these FLOP per second over those
of a square matrix product in bfloat16, measured in the same run.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import peft
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Qwen3Config, Qwen3Model

from benchmarks._record import record
from benchmarks._small_towers import pairs_loss
from lanner.distributed.chain import Chain, chain_of
from lanner.distributed.config import EngineConfig
from lanner.distributed.engine import Engine
from lanner.models.language import pool

RANK, RATE, WARM_UP, STEPS, PRODUCT = 8, 1e-5, 5, 20, 8192
"""Rank of the adapters, learning rate, untimed and timed steps, and rows of the matrices of the reference product."""


@dataclass(frozen=True)
class Shape:
    """A language model and a batch. rows, length: texts per step, and tokens of each."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    rows: int
    length: int
    key_value_heads: int = 0
    """Of a decoder; 0: the model is an encoder."""
    head_dim: int = 0

    @property
    def is_decoder(self) -> bool:
        return self.key_value_heads > 0


SHAPES = {
    "encoder": Shape(30_522, 384, 6, 12, 1536, rows=128, length=128),
    "decoder": Shape(151_936, 1024, 28, 16, 3072, rows=32, length=256, key_value_heads=8, head_dim=128),
}
"""MiniLM-L6's shape, and Qwen3-0.6B's."""


def chain_of_shape(shape: Shape, *, lora: bool, device: torch.device) -> Chain:
    """A model with random weights in bfloat16 arithmetic. lora: with adapters on all linear layers."""
    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.length,
    }
    torch.manual_seed(0)
    with device:
        if shape.is_decoder:
            sizes |= {"num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_dim}
            model: nn.Module = Qwen3Model(Qwen3Config(**sizes))
        else:
            model = BertModel(BertConfig(**sizes), add_pooling_layer=False)
        if lora:
            model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules="all-linear"))
    model.eval()

    def normalised(hidden_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        return nn.functional.normalize(pool(hidden_BLD, mask_BL, "last" if shape.is_decoder else "mean"), dim=1)

    return chain_of(model, normalised, in_bfloat16=True)


def flop_per_token(chain: Chain, shape: Shape, *, lora: bool) -> float:
    """Estimated FLOP of a step per token; what is counted: see above."""
    matrices = sum(
        weight.numel() for name, weight in chain.layers.named_parameters() if weight.ndim == 2 and "lora_" not in name
    )
    visible = (shape.length + 1) / 2 if shape.is_decoder else shape.length
    across = shape.heads * (shape.head_dim or shape.width // shape.heads)
    return (2 if lora else 3) * (2 * matrices + 4 * visible * across * shape.layers)


def measure(
    shape: Shape, *, lora: bool, is_compiled: bool, device: torch.device, warm_up: int = WARM_UP, steps: int = STEPS
) -> dict[str, float]:
    """Median seconds of a step, and what follows from it; called in a process group of one."""
    chain = chain_of_shape(shape, lora=lora, device=device)
    flop = flop_per_token(chain, shape, lora=lora)
    engine = Engine(chain, EngineConfig(compile=is_compiled), lambda weights: torch.optim.AdamW(weights, RATE), device)
    ids_BL = torch.randint(shape.vocabulary, (shape.rows, shape.length), device=device)
    mask_BL, tokens = torch.ones_like(ids_BL), ids_BL.numel()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(lambda: engine.step_whole(ids_BL, mask_BL, pairs_loss), warm_up, steps, device)
    found = {
        "step_s": seconds,
        "tokens_per_s": tokens / seconds,
        "tflop_per_s_estimated": flop * tokens / seconds / 1e12,
        "trained_parameters": sum(weight.numel() for weight in engine.trained().values()),
    }
    if device.type == "cuda":
        found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def seconds_of(run: Callable[[], Any], warm_up: int, repeats: int, device: torch.device) -> float:
    """Median seconds of a call after ``warm_up`` calls."""
    seconds = []
    for number in range(warm_up + repeats):
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= warm_up:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


def product_tflop_per_s(size: int, device: torch.device) -> float:
    """Measured speed of a product of two square bfloat16 matrices."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: one @ other, WARM_UP, STEPS, device) / 1e12


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """A process group of one, which the engine needs."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def rows_of(device: torch.device) -> tuple[float, dict[str, dict[str, Any]]]:
    """Speed of the reference product, and a row for each model and way to train it."""
    rows: dict[str, dict[str, Any]] = {}
    with alone(device):
        reference = product_tflop_per_s(PRODUCT, device)
        for name, shape in SHAPES.items():
            for lora in (False, True):
                for is_compiled in (False, True):
                    title = f"{name} {'LoRA' if lora else 'full'}{' compiled' if is_compiled else ''}"
                    try:
                        row: dict[str, Any] = dict(measure(shape, lora=lora, is_compiled=is_compiled, device=device))
                        row["utilisation_estimated"] = row["tflop_per_s_estimated"] / reference
                    except torch.cuda.OutOfMemoryError:
                        row = {"error": "out of memory"}
                    rows[title] = row
                    print(title, row, flush=True)
                    gc.collect()
                    torch.compiler.reset()
                    torch.cuda.empty_cache()
    return reference, rows


def main() -> None:
    if not torch.cuda.is_available():
        print("benchmarks.gpu: skipped, no CUDA device is available; gpu.json was not written")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    reference, rows = rows_of(device)
    settings = {
        "device": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "dtype": "bfloat16",
        "rank": RANK,
        "steps": STEPS,
        "shapes": {name: asdict(shape) for name, shape in SHAPES.items()},
    }
    summary = {title: row.get("tokens_per_s") for title, row in rows.items()}
    results = {"summary": summary, "product_tflop_per_s": reference, "rows": rows}
    print(record("gpu", seed=0, settings=settings, results=results))


if __name__ == "__main__":
    main()
