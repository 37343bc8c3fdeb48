"""Where the ranks of a division lie in a cluster. Parts that lie alike are described once: there may be a thousand."""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lanner.distributed.cluster import Cluster, Link
from lanner.distributed.degrees import Degrees


@dataclass(frozen=True)
class Path:
    """The ranks that process one part of a batch; tuples are by pipeline rank.

    slowness: of the slowest device of a tensor group. inside: the link of a tensor group. hops: those that
    ``hop_between`` numbers.
    """

    slowness: tuple[float, ...]
    inside: tuple[Link, ...]
    hops: tuple[Link, ...]


@dataclass(frozen=True)
class Ring:
    """Ranks that sum gradients: their slowest link, and the number of neighbours in different racks."""

    link: Link
    crossings: int


@dataclass(frozen=True)
class Layout:
    """The ranks of a division in a cluster.

    path_of_part: numbers in ``paths``. rings: of each pipeline rank, with their counts. crossing_rings: how many of all
    cross racks. crossing_hops: of each hop, the parts in which it crosses racks. tensor_crossings: neighbours of a
    tensor group in different racks, ``[part, pipeline rank]``. memory: of the smallest device of each pipeline rank.
    """

    paths: tuple[Path, ...]
    path_of_part: NDArray[np.intp]
    rings: tuple[Counter[Ring], ...]
    crossing_rings: int
    crossing_hops: tuple[int, ...]
    tensor_crossings: NDArray[np.intp]
    memory: tuple[float, ...]


def hop_between(one: int, other: int) -> int:
    """The number of a hop: the lower of two pipeline neighbours, or the last rank if it is to the first."""
    return min(one, other) if abs(one - other) == 1 else max(one, other)


@lru_cache(64)
def ranks_of(degrees: Degrees) -> NDArray[np.intp]:
    """Ranks ``[part of the batch, pipeline rank, tensor rank]``."""
    ranks = np.arange(degrees.world).reshape([degrees.of(axis) for axis in degrees.order])
    axes = [degrees.order.index(axis) for axis in ("replicate", "shard", "pp", "tp")]
    return ranks.transpose(axes).reshape(degrees.data, degrees.pipeline, degrees.tensor)


@lru_cache(64)
def layout_of(cluster: Cluster, degrees: Degrees) -> Layout:
    """The layout of a division."""
    ranks, racks = ranks_of(degrees), cluster.racks
    firsts = ranks[:, :, 0]
    pairs = np.stack([firsts, np.roll(firsts, -1, axis=1)], axis=2)
    slowness = np.array([device.slowness for device in cluster.devices])[ranks].max(axis=2)
    links, inside = _links(cluster, ranks)
    hop_links, hops = _links(cluster, pairs)
    alike, path_of_part = np.unique(np.concatenate([slowness, inside, hops], axis=1), axis=0, return_inverse=True)
    paths = []
    for row in alike:
        slow, within, following = np.split(row, 3)
        paths.append(
            Path(
                tuple(slow.tolist()),
                tuple(links[int(kind)] for kind in within),
                tuple(hop_links[int(kind)] for kind in following),
            )
        )
    groups = ranks.transpose(1, 2, 0)
    crossings = (racks[groups] != np.roll(racks[groups], -1, axis=2)).sum(axis=2)
    ring_links, rings = _links(cluster, groups)
    counted = tuple(
        Counter(Ring(ring_links[kind], crossed) for kind, crossed in zip(*both, strict=True))
        for both in zip(rings.tolist(), crossings.tolist(), strict=True)
    )
    crossing_hops = (racks[pairs[:, :, 0]] != racks[pairs[:, :, 1]]).sum(axis=0)
    tensor_crossings = (racks[ranks] != np.roll(racks[ranks], -1, axis=2)).sum(axis=2)
    memory = cluster.memory[ranks].min(axis=(0, 2))
    return Layout(
        tuple(paths),
        path_of_part.reshape(-1),
        counted,
        int((crossings > 0).sum()),
        tuple(crossing_hops.tolist()),
        tensor_crossings,
        tuple(memory.tolist()),
    )


def _links(cluster: Cluster, groups: NDArray[np.intp]) -> tuple[list[Link], NDArray[np.intp]]:
    """The distinct links of groups of ranks ``[A, B, n]``, and the number of each group's, ``[A, B]``."""
    flat = groups.reshape(-1, groups.shape[2])
    _, first, same = np.unique(np.sort(cluster.racks[flat], axis=1), axis=0, return_index=True, return_inverse=True)
    found = [cluster.link(flat[at].tolist()) for at in first]
    links = list(dict.fromkeys(found))
    number = np.array([links.index(link) for link in found])
    return links, number[same.reshape(-1)].reshape(groups.shape[:2])
