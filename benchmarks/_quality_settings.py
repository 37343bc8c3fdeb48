"""What ``benchmarks.quality`` runs, and with which settings (how they were chosen: docs/log.md)."""

from dataclasses import dataclass
from typing import Any

YARDSTICKS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter", "lightgcn")
OURS = ("language", "gnn", "gnn-filter", "fusion", "hybrid")
FUSION_NAMES = ("fusion-concat", "fusion-gated", "fusion-cross-attention")
"""Rows of the model ``fusion``."""


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
        Cell("ml-1m", "cold-items", "cold-items", ("random", "popularity", *OURS)),
        Cell(
            "gowalla-lightgcn",
            "published",
            "published",
            (
                "random",
                "popularity",
                "item-knn",
                "ials",
                "graph-filter",
                "graph-filter-tuned",
                "lightgcn",
                "gnn",
                "gnn-filter",
                "hybrid",
            ),
        ),
    ),
}

VARIANTS = {"graph-filter-tuned": "graph-filter"}
"""Rows that are a model at other settings."""
QUERY_TEXTS = tuple(f"ml-latest-small/random-80-20/{model}" for model in ("popularity", "language", "hybrid"))
"""Rows that are asked for genres by query texts, too."""
SVDS_RANK = {"gowalla-lightgcn/published/graph-filter": 256}
"""Where the time of one ``scipy.sparse.linalg.svds`` of the training matrix is taken beside the fit."""

SKIPPED: dict[str, dict[str, str]] = {
    "gowalla-lightgcn/published": {
        "ease": "its dense Gram matrix of 40,981² entries needs 13 GiB beside its inverse; see graph-filter",
        "language": "the dataset has no texts",
        "fusion": "the dataset has no texts; see gnn-filter",
    },
    "ml-1m/cold-items": dict.fromkeys(
        ("item-knn", "ease", "ials", "graph-filter", "lightgcn"),
        "needs interactions of the item itself, and a cold item has none: the same as random",
    ),
}

EVERY_EVENT = {"positive_threshold": "none"}
"""How the published protocols read feedback: every event is positive and weighs the same, whatever its rating."""
_ML1M_NETWORK = {
    "feedback": EVERY_EVENT,
    "neural": {"dimensions": 256, "layers": 0, "filter_rank": 512, "filter_ridge": 1500.0},
    "training": {"patience": 3},
}

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "ml-1m/random-80-20": {
        **dict.fromkeys(("gnn", "gnn-filter", "fusion"), _ML1M_NETWORK),
        "ease": {"ease": {"regularisation": 800.0}},
        "item-knn": {"item_knn": {"neighbours": 200, "shrinkage": 100.0}},
        "ials": {"ials": {"factors": 64, "regularisation": 30.0, "alpha": 5.0}},
        "graph-filter": {
            "graph_filter": {
                "neighbours": 200,
                "user_exponent": 1.0,
                "popularity_exponent": -0.2,
                "rank": 100,
                "low_pass_weight": 0.3,
            }
        },
    },
    "ml-1m/cold-items": dict.fromkeys(("gnn", "gnn-filter", "fusion", "language"), _ML1M_NETWORK),
    "amazon-scientific-2018-unisrec/leave-last-out": {
        "ease": {"ease": {"regularisation": 50.0}},
        "item-knn": {"item_knn": {"neighbours": 1000, "shrinkage": 20.0}},
        "ials": {"ials": {"factors": 64, "regularisation": 1.0, "alpha": 20.0}},
        "graph-filter": {
            "graph_filter": {"neighbours": 1000, "user_exponent": 0.3, "popularity_exponent": 0.4, "rank": 0}
        },
    },
}
SETTINGS["gowalla-lightgcn/published"] = {
    "graph-filter-tuned": {
        "graph_filter": {"neighbours": 300, "user_exponent": 0.8, "popularity_exponent": 0.2, "rank": 0}
    },
}
"""By ``dataset/protocol`` and model, as sections of the run's configuration; what is not named keeps its default.

``graph-filter`` on gowalla runs at the published settings of GF-CF, which are its defaults; ``graph-filter-tuned`` at
those picked on a random tenth of the training events, which scored better there and score worse on the published test.
"""
