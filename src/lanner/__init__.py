"""Lanner: a recommender that joins a graph neural network and a language model, built to be served.

Names are imported when they are first used, so that ``import lanner`` takes milliseconds and needs no torch.
"""

from typing import TYPE_CHECKING, Any

from lanner.errors import (
    BundleError,
    ConfigError,
    DataError,
    Interrupted,
    LannerError,
    MissingExtraError,
    RequestError,
    StorageError,
    UnknownIdError,
)

if TYPE_CHECKING:
    from lanner.library import (
        EASE,
        GNN,
        IALS,
        Dataset,
        DoRA,
        FullFineTuning,
        Fusion,
        GNNFilter,
        GraphFilter,
        Hybrid,
        ItemKNN,
        Language,
        LightGCN,
        LoRA,
        Model,
        Popularity,
        Random,
        compare,
        evaluate,
        export_embeddings,
        export_recommendations,
        load,
        load_dataset,
    )

__version__ = "0.1.0"
__all__ = [
    "EASE",
    "GNN",
    "IALS",
    "BundleError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DoRA",
    "FullFineTuning",
    "Fusion",
    "GNNFilter",
    "GraphFilter",
    "Hybrid",
    "Interrupted",
    "ItemKNN",
    "Language",
    "LannerError",
    "LightGCN",
    "LoRA",
    "MissingExtraError",
    "Model",
    "Popularity",
    "Random",
    "RequestError",
    "StorageError",
    "UnknownIdError",
    "compare",
    "evaluate",
    "export_embeddings",
    "export_recommendations",
    "load",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lanner' has no attribute '{name}'")
    import lanner.library

    return getattr(lanner.library, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING"})
