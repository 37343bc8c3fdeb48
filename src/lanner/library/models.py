"""The model classes."""

from lanner.library.estimator import Model


class Random(Model, name="random"):
    """Items in random order: the baseline that every model must beat."""


class Popularity(Model, name="popularity"):
    """The most popular items for everyone."""


class ItemKNN(Model, name="item-knn"):
    """Items chosen by users of the same items (Deshpande & Karypis, TOIS 2004)."""


class EASE(Model, name="ease"):
    """The best linear map from histories to histories with an empty diagonal (Steck, WWW 2019)."""


class IALS(Model, name="ials"):
    """Weighted matrix factorisation for implicit feedback (Hu, Koren & Volinsky, ICDM 2008); extra ``baselines``."""


class GraphFilter(Model, name="graph-filter"):
    """A low-pass filter on the user-item graph, GF-CF (Shen et al., CIKM 2021); nothing is trained."""


class LightGCN(Model, name="lightgcn"):
    """A graph neural network without transformations (He et al., SIGIR 2020), users represented by their histories.

    Three layers, 64 dimensions and BPR, as published; extra ``train``.
    """


class Language(Model, name="language"):
    """Item texts and user profiles alone, encoded by a language model; extra ``language``."""


class GNN(Model, name="gnn"):
    """A graph neural network over user-item edges and friends; extra ``train``."""


class GNNFilter(Model, name="gnn-filter"):
    """A graph neural network and a closed-form filter (ridge regression) combined; extra ``train``."""


class Fusion(Model, name="fusion"):
    """A graph neural network, a closed-form filter and a language model under a ranking head; extra ``language``."""


class Hybrid(Model, name="hybrid"):
    """Closed forms tied to texts, a graph neural network and a language model in one linear sum; extra ``language``.

    Validation chooses the settings and the weight of every part.

    If no item has a text, the language view is left out, with a ``UserWarning``.
    """


MODELS: dict[str, type[Model]] = {
    model.name: model
    for model in (
        *(Random, Popularity, ItemKNN, EASE, IALS, GraphFilter),
        *(LightGCN, Language, GNN, GNNFilter, Fusion, Hybrid),
    )
}
"""Classes by the name that the command line and bundles have for them."""
