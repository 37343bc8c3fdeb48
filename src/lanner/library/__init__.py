"""The Python library: datasets, models, evaluation. ``import lanner`` loads these names lazily."""

from lanner.data.interactions import Dataset
from lanner.library.adaptation import DoRA, FullFineTuning, LoRA
from lanner.library.estimator import Model
from lanner.library.export import export_embeddings, export_recommendations
from lanner.library.functions import compare, evaluate, load, load_dataset
from lanner.library.models import (
    EASE,
    GNN,
    IALS,
    Fusion,
    GNNFilter,
    GraphFilter,
    Hybrid,
    ItemKNN,
    Language,
    LightGCN,
    Popularity,
    Random,
)

__all__ = [
    "EASE",
    "GNN",
    "IALS",
    "Dataset",
    "DoRA",
    "FullFineTuning",
    "Fusion",
    "GNNFilter",
    "GraphFilter",
    "Hybrid",
    "ItemKNN",
    "Language",
    "LightGCN",
    "LoRA",
    "Model",
    "Popularity",
    "Random",
    "compare",
    "evaluate",
    "export_embeddings",
    "export_recommendations",
    "load",
    "load_dataset",
]
