"""Propagation, forward and backward, against torch.sparse and PyG's LGConv, relative to the machine's copy bandwidth.

One LightGCN step, out = D^-½ A D^-½ x over the square graph of users and items, in both directions. Sizes: gowalla's
training edges, and ten times as many users, items and edges with the same degrees, matched at random. All are
interleaved in one process; the medians are compared. Peers are used in their fastest form:

- torch.sparse: CSR with 32-bit and with 64-bit indices; the faster is taken. Its backward is autograd's or a forward
  product with the transpose built beforehand, whichever is faster.
- PyG: LGConv(normalize=False) with precomputed weights, once on edge_index (if memory allows) and once on a
  torch.sparse CSR tensor; the faster is taken.

Features are float32. Bytes counted: a row of features for each edge, index and weight, and the output;
the share of copy bandwidth may exceed 1 because some features stay in a cache.

    LANNER_DATA=… python -m benchmarks.kernels [--sizes gowalla gowalla-x10] [--dimensions 32 64 128] [--repetitions N]
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch_geometric.nn import LGConv

from benchmarks._record import record
from lanner.graph.adjacency import Adjacency, distinct_edges
from lanner.graph.propagation import propagate

SEED = 0
COPY_BYTES = 1 << 29
EDGE_INDEX_LIMIT = 3 << 30
"""Bytes of messages, one per edge, up to which PyG is also measured on edge_index."""
OURS = "lanner"

Way = Callable[[Tensor], Tensor]


def gowalla_pairs() -> tuple[np.ndarray, np.ndarray]:
    table = pl.read_parquet(Path(os.environ["LANNER_DATA"]) / "gowalla-lightgcn" / "train.parquet")
    # Stored in 16 bits, which users and items together would overflow.
    return table["user"].cast(pl.Int64).to_numpy(), table["item"].cast(pl.Int64).to_numpy()


def times_ten(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten users and ten items for each one, of the same degree; the ends of the edges are matched at random."""
    of_user, of_item = np.tile(np.bincount(users), 10), np.tile(np.bincount(items), 10)
    ends = np.random.default_rng(SEED).permutation(np.repeat(np.arange(len(of_item)), of_item))
    return np.repeat(np.arange(len(of_user)), of_user), ends


def two_way_graph(users: np.ndarray, items: np.ndarray) -> Adjacency:
    """Users then items as one kind of node, each edge in both directions, symmetrically normalised."""
    num_users = int(users.max()) + 1
    items = items + num_users
    count = int(items.max()) + 1
    both = np.concatenate([users, items]), np.concatenate([items, users])
    return distinct_edges(*both, (count, count)).normalised("symmetric")


def torch_csr(adjacency: Adjacency, index: torch.dtype) -> Tensor:
    parts = torch.from_numpy(adjacency.indptr).to(index), torch.from_numpy(adjacency.indices).to(index)
    return torch.sparse_csr_tensor(*parts, torch.from_numpy(adjacency.values), size=adjacency.shape)


def forward_ways(adjacency: Adjacency, dimensions: int) -> dict[str, Way]:
    convolution = LGConv(normalize=False)
    csr = torch_csr(adjacency, torch.int64)
    narrow = torch_csr(adjacency, torch.int32)
    ways: dict[str, Way] = {
        OURS: lambda x: propagate(adjacency, x),
        "torch_sparse_int32": lambda x: torch.sparse.mm(narrow, x),
        "torch_sparse_int64": lambda x: torch.sparse.mm(csr, x),
        "pyg_csr": lambda x: convolution(x, csr),
    }
    if adjacency.num_edges * dimensions * 4 <= EDGE_INDEX_LIMIT:
        pairs = np.stack([adjacency.indices, adjacency.row_of_edge]).astype(np.int64)
        edge_index, weight = torch.from_numpy(pairs), torch.from_numpy(adjacency.values)
        ways["pyg_edge_index"] = lambda x: convolution(x, edge_index, weight)
    return ways


def backward_ways(forward: dict[str, Way], features: Tensor) -> dict[str, Way]:
    """Gradient of the features from that of the output; each implementation builds its graph once and keeps it."""

    def through_autograd(way: Way) -> Way:
        leaf = features.detach().clone().requires_grad_()
        out = way(leaf)
        return lambda upstream: torch.autograd.grad(out, leaf, upstream, retain_graph=True)[0]

    ways = {name: through_autograd(way) for name, way in forward.items()}
    # The matrix is its own transpose: a peer that stores it pays for a forward product only.
    kept = {f"{name}_kept_transpose": way for name, way in forward.items() if name.startswith("torch_sparse")}
    return ways | kept


def checked(ways: dict[str, Way], features: Tensor) -> dict[str, Way]:
    """The implementations, each compared with ours; this is also the warm-up."""
    expected = ways[OURS](features)
    for way in ways.values():
        torch.testing.assert_close(way(features), expected, rtol=0.05, atol=1e-4)
    return ways


def medians(ways: dict[str, Way], features: Tensor, repetitions: int) -> dict[str, float]:
    """Median milliseconds of each implementation, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            start = time.perf_counter()
            way(features)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}


def copy_bandwidth(repetitions: int) -> float:
    """Bytes read and written per second by copying an array larger than any cache, on all threads."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source).copy_(source)
    taken = medians({OURS: target.copy_}, source, repetitions)[OURS]
    return 2 * COPY_BYTES / (taken / 1e3)


def bytes_moved(adjacency: Adjacency, dimensions: int) -> int:
    rows, edges = adjacency.shape[0], adjacency.num_edges
    return edges * (dimensions * 4 + 4 + 4) + rows * (dimensions * 4 + 8)


def summary(taken: dict[str, float], moved: int, bandwidth: float) -> dict[str, Any]:
    best = {prefix: min(ms for name, ms in taken.items() if name.startswith(prefix))
            for prefix in ("torch_sparse", "pyg")}  # fmt: skip
    speed = moved / (taken[OURS] / 1e3)
    return {
        "lanner_ms": taken[OURS],
        "torch_sparse_ms": best["torch_sparse"],
        "pyg_ms": best["pyg"],
        "ratio_to_faster_peer": min(best.values()) / taken[OURS],
        "gigabytes_per_second": speed / 1e9,
        "share_of_copy_bandwidth": speed / bandwidth,
        "all_ms": taken,
    }


def compare(adjacency: Adjacency, dimensions: int, repetitions: int, bandwidth: float) -> dict[str, Any]:
    """Rows of one size and dimension: ``["float32"][direction]``."""
    results: dict[str, Any] = {}
    torch.manual_seed(SEED)
    features = torch.randn(adjacency.shape[1], dimensions)
    forward = checked(forward_ways(adjacency, dimensions), features)
    moved = bytes_moved(adjacency, dimensions)
    for direction, ways in (("forward", forward), ("backward", backward_ways(forward, features))):
        row = results[direction] = summary(medians(checked(ways, features), features, repetitions), moved, bandwidth)
        print(
            f"  d{dimensions} {direction}: {row['lanner_ms']:.1f} ms, {row['ratio_to_faster_peer']:.2f} ×", flush=True
        )
    return {"float32": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["gowalla", "gowalla-x10"], choices=["gowalla", "gowalla-x10"])
    parser.add_argument("--dimensions", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--repetitions", type=int, default=11)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse")
    bandwidth = copy_bandwidth(options.repetitions)
    print(f"copy: {bandwidth / 1e9:.1f} GB/s on {torch.get_num_threads()} threads")
    results: dict[str, Any] = {"copy_gigabytes_per_second": bandwidth / 1e9}
    for size in options.sizes:
        pairs = gowalla_pairs()
        adjacency = two_way_graph(*(pairs if size == "gowalla" else times_ten(*pairs)))
        print(f"{size}: {adjacency.shape[0]:,} nodes, {adjacency.num_edges:,} edges")
        results[size] = {"nodes": adjacency.shape[0], "edges": adjacency.num_edges}
        for dimensions in options.dimensions:
            results[size][f"d{dimensions}"] = compare(adjacency, dimensions, options.repetitions, bandwidth)
    settings = {**vars(options), "threads": torch.get_num_threads(), "edge_index_limit_bytes": EDGE_INDEX_LIMIT}
    print(record("kernels", seed=SEED, settings=settings, results=results))


if __name__ == "__main__":
    main()
