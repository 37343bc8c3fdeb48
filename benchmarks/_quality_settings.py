"""What ``benchmarks.quality`` runs, and with which settings (how they were chosen: docs/log.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

YARDSTICKS = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter", "lightgcn")
OURS = ("language", "gnn", "gnn-filter", "fusion", "hybrid")
FUSION_NAMES = ("fusion-concat", "fusion-gated", "fusion-cross-attention")
"""Rows of the model ``fusion``."""


EVERY_EVENT = {"positive_threshold": "none"}
"""How most published protocols treat feedback: every event is positive with equal weight, whatever its rating."""


@dataclass(frozen=True)
class Published:
    """Published figures under the protocol of a cell, by metric.

    source: where, and in which year if known. excludes: the items that were not ranked: ``seen``, ``nothing`` or
    ``unknown``, if neither the source nor its code says so.
    """

    model: str
    source: str
    metrics: Mapping[str, float]
    year: int | None = None
    excludes: Literal["seen", "nothing", "unknown"] = "unknown"


@dataclass(frozen=True)
class Cell:
    """One dataset under one protocol, and the models to measure there.

    split: fields of ``SplitConfig``. feedback: of ``FeedbackConfig``. asked: a name in ``_protocols.ASKED``, how the
    held-out users are restricted. seeds: of the split. alone: models that are also measured when fitted on training
    events alone, as some published figures are. published: figures of others. metric: used to compare the hybrid.
    suite: the suite it belongs to, under whose name its rows are kept.
    """

    dataset: str
    protocol: str
    split: Mapping[str, Any]
    models: tuple[str, ...] = (*YARDSTICKS, *OURS)
    feedback: Mapping[str, Any] = field(default_factory=lambda: EVERY_EVENT)
    asked: str = "all"
    seeds: tuple[int, ...] = (1,)
    alone: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    metric: str = "ndcg_at_10"
    suite: str = ""


_FOUNDATION = (
    Cell("ml-latest-small", "random-80-20", {"name": "random"}),
    Cell("amazon-scientific-2018-unisrec", "leave-last-out", {"name": "leave-last-out"}),
    Cell("ml-1m", "random-80-20", {"name": "random"}),
    Cell("ml-1m", "cold-items", {"name": "cold-items"}, ("random", "popularity", *OURS)),
    Cell(
        "gowalla-lightgcn",
        "published",
        {"name": "published"},
        (
            *("random", "popularity", "item-knn", "ials", "graph-filter", "graph-filter-tuned"),
            *("lightgcn", "gnn", "gnn-filter", "hybrid"),
        ),
    ),
)

_CLOSED = ("random", "popularity", "item-knn", "ease", "ials", "graph-filter")
_EIGHT_ONE_ONE = {"name": "random", "test": 0.1, "validation": 1 / 9}
_SEEDS = (1, 11, 12)
_LASTFM = (
    Published("SEPT", "RecBole-GNN", {"recall_at_10": 0.2127, "ndcg_at_10": 0.2057}, 2022, "seen"),
    Published("MHCN", "RecBole-GNN", {"recall_at_10": 0.2123, "ndcg_at_10": 0.2068}, 2022, "seen"),
    Published("LightGCN", "RecBole-GNN", {"recall_at_10": 0.2064, "ndcg_at_10": 0.1972}, 2022, "seen"),
)
_BEAUTY = (
    Published(
        "BSARec + cross-entropy",
        "its authors' table; the rule from their code",
        {"recall_at_10": 0.1002, "ndcg_at_10": 0.0610},
        excludes="seen",
    ),
    Published("HSTU", "third-party table", {"recall_at_10": 0.0945, "ndcg_at_10": 0.0543}),
    Published("eSASRec", "its authors' table", {"recall_at_10": 0.0928, "ndcg_at_10": 0.0523}, 2025),
    Published("TIGER", "its paper", {"recall_at_10": 0.0648, "ndcg_at_10": 0.0384}, 2023, "nothing"),
)
_SEEN = {"name": "leave-last-out"}
_NOTHING = {"name": "leave-last-out", "exclude": "nothing"}
_PUBLISHED = (
    Cell(
        "gowalla-lightgcn",
        "published",
        {"name": "published"},
        ("random", "popularity", "graph-filter", "chebyshev-filter", "hybrid"),
        alone=("hybrid",),
        metric="ndcg_at_20",
        published=(
            Published("ChebyCF", "Kim et al., SIGIR", {"recall_at_20": 0.1941, "ndcg_at_20": 0.1616}, 2025),
            Published("NESCL", "its paper", {"recall_at_20": 0.1917, "ndcg_at_20": 0.1617}),
            Published("LightGCN", "He et al., SIGIR", {"recall_at_20": 0.1824, "ndcg_at_20": 0.1547}, 2020, "seen"),
        ),
    ),
    Cell(
        "ml-1m",
        "rating-3-random-8-1-1",
        _EIGHT_ONE_ONE,
        (*_CLOSED, "hybrid"),
        feedback={"positive_threshold": 3},
        seeds=_SEEDS,
        alone=("ease", "hybrid"),
        published=(
            Published("XSimGCL", "RecBole-GNN", {"recall_at_10": 0.2116, "ndcg_at_10": 0.2750}, 2022, "seen"),
            Published("LightGCN", "RecBole-GNN", {"recall_at_10": 0.1861, "ndcg_at_10": 0.2538}, 2022, "seen"),
        ),
    ),
    Cell(
        "ml-1m",
        "rated-graded",
        {"name": "random"},
        ("random", "popularity", "item-mean", "ease", "hybrid"),
        asked="rated",
        metric="graded_ndcg_at_10",
        seeds=_SEEDS,
        published=(
            Published(
                "hybrid of GNN and language model", "the paper; its protocol is not stated", {"graded_ndcg_at_10": 0.75}
            ),
        ),
    ),
    Cell(
        "ml-1m",
        "ncf-99-negatives",
        {"name": "published"},
        ("random", "popularity", "item-knn", "ease", "hybrid"),
        asked="ncf",
        published=(
            Published(
                "matrix factorisation, tuned",
                "Rendle et al., RecSys",
                {"hr_at_10": 0.7294, "ndcg_at_10": 0.4523},
                2020,
                "seen",
            ),
            Published("PFedRec", "its abstract", {"hr_at_10": 0.7326, "ndcg_at_10": 0.4436}, 2023, "seen"),
        ),
    ),
    Cell(
        "lastfm-hetrec2011",
        "random-8-1-1",
        _EIGHT_ONE_ONE,
        (*_CLOSED, "lightgcn", "hybrid"),
        seeds=_SEEDS,
        alone=("hybrid",),
        published=_LASTFM,
    ),
    Cell(
        "lastfm-hetrec2011-no-tags",
        "random-8-1-1",
        _EIGHT_ONE_ONE,
        (*_CLOSED, "hybrid"),
        alone=("hybrid",),
        published=_LASTFM,
    ),
    *(
        Cell("amazon-beauty-2014-5core", protocol, split, (*_CLOSED, "hybrid"), alone=("hybrid",), published=_BEAUTY)
        for protocol, split in (("leave-last-out", _SEEN), ("leave-last-out-all-items", _NOTHING))
    ),
    Cell(
        "amazon-scientific-2018-unisrec",
        "leave-last-out-all-items",
        _NOTHING,
        (*_CLOSED, "hybrid"),
        alone=("hybrid",),
        published=(
            Published(
                "UniSRec, text and id",
                "its paper, KDD",
                {"recall_at_10": 0.1235, "ndcg_at_10": 0.0634},
                2022,
                "nothing",
            ),
            Published(
                "UniSRec, text", "its paper, KDD", {"recall_at_10": 0.1188, "ndcg_at_10": 0.0641}, 2022, "nothing"
            ),
        ),
    ),
    *(
        Cell(
            "yelp-p5",
            protocol,
            split,
            ("random", "popularity", "item-knn", "ials", "graph-filter", "hybrid"),
            alone=("hybrid",),
            published=(
                Published("SASRec", "from memory", {"recall_at_10": 0.0274, "ndcg_at_10": 0.0136}, excludes="nothing"),
            ),
        )
        for protocol, split in (("leave-last-out", _SEEN), ("leave-last-out-all-items", _NOTHING))
    ),
    Cell("amazon-toys-2014-5core", "random-80-20", {"name": "random"}, (*_CLOSED, "hybrid")),
    Cell(
        "yelp-social-diffnet",
        "diffnet-1000-negatives",
        {"name": "published"},
        ("random", "popularity", "item-knn", "ials", "graph-filter", "hybrid"),
        asked="diffnet",
        published=(
            Published(
                "DiffNet++", "from memory", {"capped_recall_at_10": 0.3694, "ndcg_at_10": 0.2263}, excludes="seen"
            ),
            Published("DiffNet", "from memory", {"capped_recall_at_10": 0.3437, "ndcg_at_10": 0.2092}, excludes="seen"),
        ),
    ),
)

STUDIES: dict[str, tuple[tuple[str, str, int], ...]] = {
    "foundation": (),
    "published": (
        ("query_texts", "ml-latest-small", 1),
        *(("insurance", "zimnat-insurance", seed) for seed in (1, 21, 22)),
        ("reasons", "ml-latest-small", 1),
        ("reasons", "amazon-scientific-2018-unisrec", 1),
        ("reasons", "lastfm-hetrec2011", 1),
        ("reasons", "ml-1m", 1),
        ("windows", "ml-latest-small", 1),
        ("windows", "ml-1m", 1),
        ("windows", "lastfm-tags", 1),
    ),
}
"""What a suite measures besides its tables: a module ``_NAME`` with ``measure(dataset, seed)``, and its arguments."""

CELLS: dict[str, tuple[Cell, ...]] = {
    suite: tuple(replace(cell, suite=suite) for cell in cells)
    for suite, cells in (("foundation", _FOUNDATION), ("published", _PUBLISHED))
}
PROTOCOLS = {
    "leave-last-out": "last event, if its item is new; seen items not ranked",
    "leave-last-out-all-items": "last event, also of a seen item; every item ranked",
}
"""Protocols in words, where the name does not say which items are ranked and which are positives."""
MOMENTS = ("halfway", "at_start")
"""When users are evaluated in the study of windows."""

ALONE = "-train-alone"
"""Suffix of rows that were fitted on training events alone."""
VARIANTS = {"graph-filter-tuned": "graph-filter", "chebyshev-filter": "hybrid", "item-mean": "hybrid"}
"""Rows that are a model with other settings."""
SVDS_RANK = {"gowalla-lightgcn/published/graph-filter": 256}
"""Where one ``scipy.sparse.linalg.svds`` of the training matrix is timed along with the fit."""

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
SETTINGS["ml-1m/rated-graded"] = {
    "item-mean": {"hybrid": {"parts": ["rating"]}},
    # The parts that validation kept on a split with another seed.
    "hybrid": {"hybrid": {"parts": ["ridge", "rating"]}},
}
SETTINGS["gowalla-lightgcn/published"] = {
    "chebyshev-filter": {"hybrid": {"parts": ["low-pass"], "tuning_users": 0}},
    "graph-filter-tuned": {
        "graph_filter": {"neighbours": 300, "user_exponent": 0.8, "popularity_exponent": 0.2, "rank": 0}
    },
}
"""By ``dataset/protocol`` and model, as sections of the run's configuration; anything not named keeps its default.

``graph-filter`` on gowalla uses the published settings of GF-CF, which are its defaults; ``graph-filter-tuned`` those
picked on a random tenth of the training events, which scored better there and worse on the published test set.
"""

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "ease": {"regularisation": (20.0, 50.0, 100.0, 200.0, 1000.0)},
    "item-knn": {"neighbours": (50, 300, 1000), "shrinkage": (0.0, 20.0, 100.0)},
    "ials": {"factors": (64,), "regularisation": (10.0, 30.0, 100.0), "alpha": (1.0, 5.0, 20.0)},
    "graph-filter": {
        "user_exponent": (0.3, 0.6),
        "popularity_exponent": (-0.2, 0.2, 0.4),
        "neighbours": (300, 1000),
        "rank": (0, 100),
    },
}
"""Settings of baselines that are tried on validation, one after the other, if ``SETTINGS`` has none for them."""
UNSEARCHED = ("gowalla-lightgcn",)
"""Datasets where they keep their defaults: settings chosen on validation are worse on test there."""
