"""What ``benchmarks.quality`` runs, and with which settings (all chosen on validation events, never on test)."""

from dataclasses import dataclass
from typing import Any

YARDSTICKS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter", "lightgcn")
OURS = ("language", "gnn", "hybrid")
CLOSED_FORMS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter")
FUSION_NAMES = ("hybrid-concat", "hybrid-gated", "hybrid-cross-attention")


@dataclass(frozen=True)
class Cell:
    """One dataset under one protocol, and the models to measure there."""

    dataset: str
    protocol: str
    split: str
    models: tuple[str, ...] = (*YARDSTICKS, *OURS)


CELLS: dict[str, tuple[Cell, ...]] = {
    "foundation": (
        Cell("ml-latest-small", "random-80-20", "random"),
        Cell("amazon-scientific-2018-unisrec", "leave-last-out", "leave-last-out"),
        Cell("ml-1m", "random-80-20", "random"),
        Cell("ml-1m", "cold-items", "cold-items", ("random", "popularity", "language", "gnn", "hybrid")),
        Cell(
            "gowalla-lightgcn",
            "published",
            "published",
            ("random", "popularity", "item-knn", "ials", "graph-filter", "lightgcn", "gnn"),
        ),
    ),
}

SKIPPED: dict[str, dict[str, str]] = {
    "gowalla-lightgcn/published": {
        "ease": "its dense Gram matrix of 40,981² entries needs 13 GiB beside its inverse; see graph-filter",
        "language": "the dataset has no texts",
        "hybrid": "the dataset has no texts; see gnn",
    },
    "ml-1m/cold-items": {
        name: "linear in interactions of items, which a cold item has none of: the same as random"
        for name in ("item-knn", "ease", "ials", "graph-filter", "lightgcn")
    },
}

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {"*": {}}
"""By ``dataset/protocol`` and model, as sections of the run's configuration; ``*`` stands for all."""
