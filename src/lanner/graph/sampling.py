"""Neighbour sampling: some rows of a graph, with few of their edges (GraphSAGE: Hamilton et al., NeurIPS 2017)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lanner.graph.adjacency import Adjacency


def sampled_rows(
    adjacency: Adjacency, rows: NDArray[np.integer], fanout: int, random: np.random.Generator
) -> tuple[Adjacency, NDArray[np.int32]]:
    """Some rows with at most ``fanout`` of their edges each, ``[R, C]``, and the C columns that these reach, sorted.

    Edges are drawn uniformly without replacement, and weighted by degree / number drawn: a product with these rows has
    the expectation of the product with all edges. Rows with at most ``fanout`` edges keep them all, in order. Memory:
    rows × the smaller of ``fanout`` and the largest degree.
    """
    degree_R = adjacency.row_degrees[rows]
    kept_R = np.minimum(degree_R, fanout)
    width = int(kept_R.max(initial=0))
    drawn_RF = np.broadcast_to(np.arange(width), (len(rows), width)).copy()
    many = np.flatnonzero(degree_R > fanout)
    drawn_RF[many] = _distinct(degree_R[many], width, random)
    edges = (adjacency.indptr[rows][:, None] + drawn_RF)[np.arange(width) < kept_R[:, None]]
    columns, indices = np.unique(adjacency.indices[edges], return_inverse=True)
    weights = np.repeat((degree_R / np.maximum(kept_R, 1)).astype(np.float32), kept_R)
    if adjacency.values is not None:
        weights *= adjacency.values[edges]
    indptr = np.concatenate([[0], np.cumsum(kept_R)]).astype(np.int64)
    block = Adjacency(indptr, indices.astype(np.int32), weights, (len(rows), len(columns)))
    return block, columns.astype(np.int32)


def narrowed(adjacency: Adjacency, columns: NDArray[np.integer]) -> Adjacency:
    """The same edges over the sorted ``columns`` alone, which include all that it uses."""
    places = np.searchsorted(columns, adjacency.indices).astype(np.int32)
    return replace(adjacency, indices=places, shape=(adjacency.shape[0], len(columns)))


def widened(block: Adjacency, own: NDArray[np.integer], columns: NDArray[np.integer]) -> Adjacency:
    """A block over the columns ``own`` as one over the sorted ``columns``, which include them."""
    places = np.searchsorted(columns, own).astype(np.int32)
    return replace(block, indices=places[block.indices], shape=(block.shape[0], len(columns)))


def _distinct(sizes_R: NDArray[np.integer], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """``count`` different numbers below each size, uniform over all sets, ``[R, count]`` (Floyd's algorithm)."""
    drawn_RF = np.empty((len(sizes_R), count), np.int64)
    for place in range(count):
        largest_R = sizes_R - count + place
        tried_R = random.integers(0, largest_R + 1)
        is_taken_R = (drawn_RF[:, :place] == tried_R[:, None]).any(axis=1)
        drawn_RF[:, place] = np.where(is_taken_R, largest_R, tried_R)
    return drawn_RF
