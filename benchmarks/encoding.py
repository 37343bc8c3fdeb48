"""Texts per second of the language encoder against sentence-transformers, on the plots of ml-1m.

Both use the same model (all-MiniLM-L6-v2), cut texts at the same 256 tokens, and are timed warm and without a cache,
interleaved, in one process. The peer runs in float32, its default, in two ways: a plain loop over batches of 32 in the
given order, and one call with all texts (which it sorts by length) at its best batch size.

    LANNER_DATA=… python -m benchmarks.encoding [--texts N] [--repetitions N]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks._record import record
from lanner.models.language import DEFAULT_MODEL, LanguageConfig, LanguageEncoder, model_folder

SEED = 0
MAX_TOKENS = 256
PEER_BATCH_SIZES = (16, 32, 64)
TEXTS_TO_CHOOSE_BY = 512
LOOP, SORTED = "sentence-transformers-loop", "sentence-transformers-sorted"
OURS, OURS_FLOAT32 = "lanner", "lanner-float32"

Encode = Callable[[list[str]], NDArray[np.float32]]


def plots(count: int) -> list[str]:
    """Plots of ml-1m in file order, or ``count`` of them drawn at random."""
    table = pl.read_parquet(Path(os.environ["LANNER_DATA"]) / "ml-1m" / "movies.parquet", columns=["plot"])
    texts = table["plot"].drop_nulls().to_list()
    if not count:
        return texts
    rows = np.random.default_rng(SEED).permutation(len(texts))[:count]
    return [texts[row] for row in rows]


def peer_ways(peer: SentenceTransformer, batch_size: int) -> dict[str, Encode]:
    def whole(texts: list[str]) -> NDArray[np.float32]:
        return peer.encode(texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)

    def loop(texts: list[str]) -> NDArray[np.float32]:
        parts = [texts[start : start + 32] for start in range(0, len(texts), 32)]
        return np.concatenate([peer.encode(part, normalize_embeddings=True, show_progress_bar=False) for part in parts])

    return {LOOP: loop, SORTED: whole}


def our_ways() -> dict[str, Encode]:
    return {
        OURS: LanguageEncoder(LanguageConfig(max_tokens=MAX_TOKENS, cache=False)).encode,
        OURS_FLOAT32: LanguageEncoder(LanguageConfig(max_tokens=MAX_TOKENS, cache=False, dtype="float32")).encode,
    }


def seconds(encode: Encode, texts: list[str]) -> tuple[float, NDArray[np.float32]]:
    begun = time.perf_counter()
    vectors = encode(texts)
    return time.perf_counter() - begun, vectors


def best_batch_size(peer: SentenceTransformer, texts: list[str]) -> tuple[int, dict[int, float]]:
    some = texts[:: max(1, len(texts) // TEXTS_TO_CHOOSE_BY)]
    rates = {size: len(some) / seconds(peer_ways(peer, size)[SORTED], some)[0] for size in PEER_BATCH_SIZES}
    return max(rates, key=rates.__getitem__), rates


def cached_rate(texts: list[str], vectors: NDArray[np.float32]) -> float:
    """Texts per second of a fresh encoder whose cache holds every text."""
    with tempfile.TemporaryDirectory() as folder:
        config = LanguageConfig(max_tokens=MAX_TOKENS, cache_dir=folder)
        writer = LanguageEncoder(config)
        writer.encode(texts)
        taken, again = seconds(LanguageEncoder(config).encode, texts)
    assert (again * vectors).sum(1).min() > 0.999
    return len(texts) / taken


def measure(texts: list[str], repetitions: int) -> tuple[dict[str, Any], dict[str, Any]]:
    peer = SentenceTransformer(str(model_folder(DEFAULT_MODEL)), device="cpu")
    peer.max_seq_length = MAX_TOKENS
    for way in (*peer_ways(peer, 32).values(), *our_ways().values()):
        way(texts[:64])
    batch_size, peer_rates = best_batch_size(peer, texts)
    ways = {**peer_ways(peer, batch_size), **our_ways()}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, NDArray[np.float32]] = {}
    for _ in range(repetitions):
        for name, encode in ways.items():
            duration, vectors[name] = seconds(encode, texts)
            taken[name].append(duration)
    results = {
        name: {
            "texts_per_second": len(texts) / statistics.median(taken[name]),
            "speed_over_loop": ratio(taken[LOOP], taken[name]),
            "speed_over_best_peer": ratio(np.minimum(taken[LOOP], taken[SORTED]).tolist(), taken[name]),
            "cosine_min": float((vectors[name] * vectors[SORTED]).sum(1).min()),
            "cosine_mean": float((vectors[name] * vectors[SORTED]).sum(1).mean()),
        }
        for name in ways
    }
    results["lanner-cached"] = {"texts_per_second": cached_rate(texts, vectors[OURS])}
    settings = {
        "dtype": str(LanguageEncoder().dtype),
        "peer_batch_size": batch_size,
        "peer_texts_per_second_by_batch_size": {str(size): rate for size, rate in peer_rates.items()},
        "threads": torch.get_num_threads(),
    }
    return settings, results


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Median speed-up over the repetitions."""
    return statistics.median(one / other for one, other in zip(theirs, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--texts", type=int, default=0, help="how many texts, drawn at random; 0: all")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    texts = plots(options.texts)
    settings, results = measure(texts, options.repetitions)
    settings |= {"texts": len(texts), "max_tokens": MAX_TOKENS, "repetitions": options.repetitions}
    path = record("encoding", seed=SEED, settings=settings, results=results)
    for name, figures in results.items():
        print(name, "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    print(path)


if __name__ == "__main__":
    main()
