"""Neighbour sampling (Hamilton et al., "Inductive representation learning on large graphs", 2017).

For graphs whose features do not fit: a batch touches only the nodes that it samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from lanner.data.grouping import number_integers
from lanner.graph.adjacency import Adjacency


@dataclass(frozen=True, eq=False)
class Block:
    """A small adjacency over renumbered nodes: row ``r`` is node ``rows[r]``, column ``c`` is node ``columns[c]``.

    rows: int64, in the order asked for. columns: int64, distinct and rising; the only features that are needed.
    """

    adjacency: Adjacency
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def sample_neighbours(
    adjacencies: Sequence[Adjacency],
    seeds: NDArray[np.integer[Any]],
    fanouts: Sequence[int],
    *,
    seed: int,
    step: int = 0,
) -> list[Block]:
    """One block a hop, the seeds' own first; the columns of each block are the rows of the next.

    ``adjacencies[h]`` is walked at hop h: the same one again in a graph of one node type, ``[ui, ui.transposed]`` from
    users to items and back. Each row keeps ``min(fanouts[h], degree)`` of its edges, drawn uniformly without
    replacement and weighted by degree / kept, so that the expected sum is that of the whole graph. The draw
    depends on ``seed``, ``step``, hop and node only.

    Raises:
        ValueError: there is not one fanout a hop, a fanout is below 1, or a seed is no row of the first adjacency.
    """
    if len(fanouts) != len(adjacencies) or any(fanout < 1 for fanout in fanouts):
        raise ValueError(f"fanouts {list(fanouts)} must be {len(adjacencies)} numbers of at least 1")
    rows = np.asarray(seeds, np.int64)
    blocks: list[Block] = []
    for hop, (adjacency, fanout) in enumerate(zip(adjacencies, fanouts, strict=True)):
        key = np.random.SeedSequence((seed, step, hop)).generate_state(1, np.uint64)[0]
        blocks.append(_sample_block(adjacency, rows, fanout, key))
        rows = blocks[-1].columns
    return blocks


def _sample_block(adjacency: Adjacency, rows: NDArray[np.int64], fanout: int, key: np.uint64) -> Block:
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < adjacency.shape[0]:
        raise ValueError(f"nodes {rows.min()} … {rows.max()} do not fit an adjacency of {adjacency.shape[0]} rows")
    degrees = adjacency.indptr[rows + 1] - adjacency.indptr[rows]
    kept = np.minimum(degrees, fanout)
    indptr = np.concatenate([[0], np.cumsum(kept)])
    edges = np.empty(indptr[-1], np.int64)
    _draw(adjacency.indptr, rows, indptr, key, edges)
    weights = np.repeat(degrees / np.maximum(kept, 1), kept).astype(np.float32)
    if adjacency.values is not None:
        weights *= adjacency.values[edges]
    columns, indices = number_integers(adjacency.indices[edges])
    return Block(Adjacency(indptr, indices, weights, (len(rows), len(columns))), rows, columns)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _mix(state: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele et al., 2014): every bit of the state moves every bit of the result."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _draw(indptr: Any, rows: Any, kept_indptr: Any, key: Any, edges: Any) -> None:
    """Positions of the edges kept, by Floyd's algorithm (Bentley & Floyd, 1987): a draw an edge kept, no table."""
    for position in prange(len(rows)):
        row, start = rows[position], kept_indptr[position]
        first, degree = indptr[row], indptr[row + 1] - indptr[row]
        kept = kept_indptr[position + 1] - start
        state = _mix(key + np.uint64(row))
        for taken in range(kept):
            last = degree - kept + taken
            state += np.uint64(0x9E3779B97F4A7C15)
            # The high 32 bits, scaled to 0 … last; the bias is below degree / 2**32.
            chosen = first + np.int64(((_mix(state) >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
            for before in range(start, start + taken):
                if edges[before] == chosen:
                    chosen = first + last
                    break
            edges[start + taken] = chosen
