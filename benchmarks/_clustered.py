"""A simulated catalogue: clustered item vectors with gowalla's popularity distribution, and histories over it."""

import numpy as np
from numpy.typing import NDArray

from benchmarks._datasets import named

DIMENSIONS, HISTORY = 64, 50
_CLUSTERS = 2_000


def clustered_catalogue(items: int, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Item vectors ``[items, 64]`` and each item's share of the interactions.

    A mixture of Gaussians. Popularity is gowalla's, its ranks stretched to the number of items; popular items have
    longer vectors, as learned ones do.
    """
    gowalla = named("gowalla-lightgcn")
    degrees = np.sort(np.bincount(gowalla.interactions.item, minlength=gowalla.num_items))[::-1]
    ranks = np.linspace(0, len(degrees) - 1, items)
    popularity = np.interp(ranks, np.arange(len(degrees)), degrees)[random.permutation(items)]
    clusters = max(16, min(_CLUSTERS, items // 50))
    centres = random.normal(size=(clusters, DIMENSIONS)).astype(np.float32)
    member = random.choice(clusters, items, p=(weights := random.pareto(1.5, clusters) + 1) / weights.sum())
    vectors = centres[member] + 0.5 * random.normal(size=(items, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= (1 + 0.15 * np.log1p(popularity))[:, None].astype(np.float32)
    return vectors.astype(np.float32), popularity / popularity.sum()


def clustered_histories(
    vectors: NDArray[np.float32], share: NDArray[np.float64], random: np.random.Generator, number: int
) -> NDArray[np.int64]:
    """``[number, 50]`` distinct items each: half by popularity, half near one of those, to imitate a taste."""
    cumulated = np.cumsum(share)
    found = np.empty((number, HISTORY), np.int64)
    for row in found:
        pool = np.unique(np.minimum(np.searchsorted(cumulated, random.random(1_000)), len(share) - 1))
        popular = random.choice(pool, HISTORY // 2, replace=False)
        near = pool[np.argsort(-(vectors[pool] @ vectors[popular[0]]))]
        row[:] = np.concatenate([popular, near[~np.isin(near, popular)]])[:HISTORY]
    return found
