"""The relations between items over which the relational view passes messages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor

from lanner.data.catalogue import Attribute
from lanner.data.interactions import Dataset
from lanner.data.ragged import Ragged
from lanner.graph.adjacency import Adjacency
from lanner.graph.propagation import propagate
from lanner.graph.sampling import sampled_rows, widened
from lanner.models.linear import training_matrix

LINKS, FRIENDS = "linked items", "friends"
"""The relations of edges between items, and between users."""
_LARGEST_SHARE = 0.5
"""An attribute value shared by more of the items (or users) than this does not discriminate between them."""
_CAUTIOUS = -2.0
"""Trust in relations over users' ties and attributes before training: an eighth of that in the others. Such paths are
long and join many items, so they must first prove useful."""


@dataclass(frozen=True, eq=False)
class Relation:
    """Items that reach each other through attribute values, edges or users: message(x) = A B Aᵀ x, or A Aᵀ x.

    steps: the normalised factors in the order of a message: Aᵀ ``[N, I]``, perhaps B ``[N, N]``, A ``[I, N]``. Their
    product, as large as I × I, is never computed. trust: before training.
    """

    steps: tuple[Adjacency, ...]
    trust: float = 0.0

    @classmethod
    def through(cls, to_items: Adjacency, between: Adjacency | None = None, trust: float = 0.0) -> "Relation":
        """From A and B; None: the identity."""
        return cls((to_items.transposed, *(() if between is None else (between,)), to_items), trust)

    @property
    def num_edges(self) -> int:
        return self.steps[-1].num_edges

    def messages(self, items_ID: Tensor) -> Tensor:
        """What each item receives, ``[I, D]``."""
        for step in self.steps:
            items_ID = propagate(step, items_ID)
        return items_ID

    def sampled(
        self, items_R: NDArray[np.integer], fanout: int, random: np.random.Generator
    ) -> tuple["Relation", NDArray[np.integer]]:
        """The messages to some items from at most ``fanout`` neighbours in each step, and the items these come from."""
        blocks, rows = list[Adjacency](), items_R
        for step in reversed(self.steps):
            block, rows = sampled_rows(step, rows, fanout, random)
            blocks.insert(0, block)
        return Relation(tuple(blocks), self.trust), rows


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of message passing. kept: its items by their place in the layer before ``[I]``; None: all of them.

    relations: from the items of the layer before to its own.
    """

    relations: tuple[Relation, ...]
    kept: NDArray[np.integer] | None = None


def sampled_layers(
    layers: Sequence[Layer], items_R: NDArray[np.integer], fanout: int, random: np.random.Generator
) -> tuple[list[Layer], NDArray[np.integer]]:
    """What ``layers`` of the whole graph compute for some sorted items alone, and the sorted items they start from."""
    found: list[Layer] = []
    for layer in reversed(layers):
        parts = [one.sampled(items_R, fanout, random) for one in layer.relations]
        before = np.unique(np.concatenate([items_R, *(reached for _, reached in parts)]))
        relations = tuple(
            replace(one, steps=(widened(one.steps[0], reached, before), *one.steps[1:])) for one, reached in parts
        )
        found.insert(0, Layer(relations, np.searchsorted(before, items_R)))
        items_R = before
    return found, items_R


def item_relations(dataset: Dataset) -> dict[str, Relation]:
    """Relations between items, by name.

    In this order: items chosen by the same users, for each behaviour; items that share a value, for each attribute of
    items; linked items; items chosen by users who are friends; and items chosen by users who share a value, for each
    attribute of users. A name that is taken is followed by "(users)".

    Relations without an edge are left out. So are values held by a single item (or user) or by more than half of them.
    """
    events, num_items = dataset.interactions, dataset.num_items
    relations: dict[str, Relation] = {}
    positive = np.ones(len(events), np.bool_) if events.confidence is None else events.confidence > 0
    for code, behaviour in enumerate(events.behaviours):
        chosen = positive if events.behaviour is None else positive & (events.behaviour == code)
        shape = (num_items, dataset.num_users)
        relations[behaviour] = _shared(events.item[chosen], events.user[chosen], shape, dataset.num_users)
    for name, attribute in dataset.item_catalogue.attributes.items():
        items, values = attribute.codes.row_of_value, attribute.codes.values
        shape = (num_items, len(attribute.names))
        relations[name] = _shared(items, values, shape, int(_LARGEST_SHARE * num_items))
    if dataset.links is not None:
        edges = np.unique(np.sort(np.stack([dataset.links.row_of_value, dataset.links.values]), axis=0), axis=1)
        values = np.tile(np.arange(edges.shape[1]), 2)
        relations[LINKS] = _shared(edges.ravel(), values, (num_items, edges.shape[1]), 2)
    for name, relation in _over_users(dataset):
        while name in relations:
            name = f"{name} (users)"
        relations[name] = relation
    return {name: one for name, one in relations.items() if one.num_edges}


def _over_users(dataset: Dataset) -> list[tuple[str, Relation]]:
    """Relations over friends and over the attributes of users, with their names."""
    attributes, ties = dataset.user_catalogue.attributes, dataset.ties
    if (ties is None and not attributes) or not len(dataset.histories.values):
        return []
    chosen_UI = training_matrix(dataset)
    friends = [] if ties is None else [(FRIENDS, _over_friends(chosen_UI, ties))]
    return [*friends, *((name, _over_values(chosen_UI, one)) for name, one in attributes.items())]


def _shared(items: NDArray[np.integer], others: NDArray[np.integer], shape: tuple[int, int], most: int) -> Relation:
    """Items that share one of the ``others``, each of which joins 2 to ``most`` items."""
    matrix = sp.csr_matrix((np.ones(len(items), np.float32), (items, others)), shape=shape)
    matrix.sum_duplicates()
    degree = np.bincount(matrix.indices, minlength=shape[1])
    kept = (degree >= 2) & (degree <= most)
    matrix.data = kept[matrix.indices].astype(np.float32)
    matrix.eliminate_zeros()
    return Relation.through(_symmetric(matrix))


def _over_friends(chosen_UI: sp.csr_matrix, ties: Ragged) -> Relation:
    """Items chosen by users who are friends in either direction; both have events."""
    is_active_U = np.diff(chosen_UI.indptr) > 0
    user, friend = ties.row_of_value, ties.values
    kept = is_active_U[user] & is_active_U[friend] & (user != friend)
    user, friend = user[kept], friend[kept]
    pairs = (np.concatenate([user, friend]), np.concatenate([friend, user]))
    between = sp.csr_matrix((np.ones(len(pairs[0]), np.float32), pairs), shape=(len(ties),) * 2)
    between.sum_duplicates()
    between.data[:] = 1
    has_friends_U = (np.diff(between.indptr) > 0).astype(np.float32)
    to_items = sp.csr_matrix((sp.diags_array(has_friends_U) @ chosen_UI).T)
    to_items.eliminate_zeros()
    return Relation.through(_symmetric(to_items), _symmetric(between), _CAUTIOUS)


def _over_values(chosen_UI: sp.csr_matrix, attribute: Attribute) -> Relation:
    """Items by how many users of each value chose them."""
    shape = (chosen_UI.shape[0], len(attribute.names))
    entries = (np.ones(len(attribute.codes.values), np.float32), attribute.codes.values, attribute.codes.indptr)
    held_UN = sp.csr_matrix(entries, shape=shape)
    holders_N = np.bincount(held_UN.indices, minlength=shape[1])
    kept_N = (holders_N >= 2) & (holders_N <= _LARGEST_SHARE * shape[0])
    counts_IN = sp.csr_matrix(chosen_UI.T @ held_UN @ sp.diags_array(kept_N.astype(np.float32)))
    counts_IN.eliminate_zeros()
    return Relation.through(_symmetric(counts_IN), None, _CAUTIOUS)


def _symmetric(matrix: sp.csr_matrix) -> Adjacency:
    """The edges of a matrix with positive weights, each divided by the root of the sums of its row and its column."""
    matrix.sort_indices()
    rows, columns = (np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1) for axis in (1, 0))
    pattern = Adjacency.from_pattern(matrix).normalised("symmetric")
    if matrix.data.max(initial=1) == 1:
        return pattern
    weights = matrix.data / np.sqrt(np.repeat(rows, pattern.row_degrees) * columns[matrix.indices])
    return replace(pattern, values=weights.astype(np.float32))
