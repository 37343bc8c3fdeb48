"""A relational graph view: typed messages between items, each initialised from its ID and its text.

::

    e⁰_i     = id_i + W f_i
    e^{l+1}  = Σ_r softmax(a)_r · A_r (g_r ∘ e^l)            r over the relations, Σ over all of them 1
    item     = 1/(L+1) Σ_l e^l

A relation connects items: those chosen by the same users (R̃ᵀR̃, one for each behaviour), those that share an
attribute value (Ã Ãᵀ), and those with an edge between them (each edge as a value that both ends share). g_r is the
relation's own transform (diagonal, as in DistMult and R-GCN's simplest basis, Schlichtkrull et al., ESWC 2018), a its
interpretable trust. Users carry no parameters: they are the mean of what they chose, plus what their friends chose,
plus the vectors of their attributes::

    user     = 1/|N| Σ_{i ∈ N} item_i + friends + Σ_r w_r · mean_{a ∈ values of r} v_a      r over the users' attributes

v_a is learned for each value, w_r for each attribute. Every step is linear in the history.
"""

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset
from lanner.graph.adjacency import Adjacency
from lanner.graph.propagation import propagate
from lanner.models.views import GraphView, Tables, UserInputs, View

LINKS = "linked items"
"""The relation of edges between items."""
_LARGEST_SHARE = 0.5
"""An attribute value shared by more of the items than this does not discriminate between them."""
_ID_DROPOUT = 0.2
"""Share of the items whose ID is hidden in a step, so that texts and neighbours learn to represent them."""

_UNTRUSTED = -30.0
"""Trust in a relation that was added after training."""


class RelationalView(GraphView):
    """See the module. relations: from values (of attributes) or users to items, ``[I, N]`` each, by name.

    features_IF: of the items' texts; None: without. people: whose attributes users bring; a value of a single user says
    nothing about others, and adds nothing.
    """

    def __init__(
        self,
        interactions: Adjacency,
        relations: Mapping[str, Adjacency],
        features_IF: Tensor | None,
        dimensions: int,
        layers: int,
        has_friends: bool,
        people: Catalogue,
    ) -> None:
        super().__init__(interactions, dimensions, layers, has_friends)
        kind_A, holders_A = people.kinds, np.bincount(people.values.values, minlength=len(people.kinds))
        self._attributes = tuple(people.attributes)
        self._values = tuple((name, value) for name, one in people.attributes.items() for value in one.names)
        self.register_buffer("kind", torch.from_numpy(kind_A.astype(np.int64)), persistent=False)
        self.register_buffer("is_shared", torch.from_numpy(holders_A >= 2), persistent=False)
        self.values = nn.Parameter(torch.zeros(len(kind_A), dimensions))
        self.attribute_trust = nn.Parameter(torch.full((len(self._attributes),), 0.5))
        self._relations = {name: one.normalised("symmetric") for name, one in relations.items()}
        self.trust = nn.Parameter(torch.zeros(len(relations)))
        self.transforms = nn.Parameter(torch.ones(len(relations), dimensions))
        self.from_text = None
        if features_IF is not None:
            self.register_buffer("features", features_IF, persistent=False)  # stored with the language view
            self.from_text = nn.Linear(features_IF.shape[1], dimensions, bias=False)
            nn.init.normal_(self.from_text.weight, std=0.1)

    @torch.no_grad()
    def take_over(self, before: View, is_trained_I: Tensor) -> None:
        super().take_over(before, is_trained_I)
        assert isinstance(before, RelationalView)
        # By name, as new values may come between known ones.
        for own, old, names, known_names in (
            (self.values, before.values, self._values, before._values),
            (self.attribute_trust, before.attribute_trust, self._attributes, before._attributes),
        ):
            place_of = {name: place for place, name in enumerate(names)}
            own[[place_of[name] for name in known_names]] = old
        known = {name: place for place, name in enumerate(before._relations)}
        for place, name in enumerate(self._relations):
            if name in known:
                self.trust[place], self.transforms[place] = before.trust[known[name]], before.transforms[known[name]]
            else:
                self.trust[place] = _UNTRUSTED

    @property
    def relation_weights(self) -> dict[str, float]:
        """Weights of the messages of each relation, which sum to 1."""
        shares = torch.softmax(self.trust.detach(), 0).tolist()
        return dict(zip(self._relations, shares, strict=True))

    @property
    def attribute_weights(self) -> dict[str, float]:
        """Influence of each user attribute: the root mean square of its values' vectors."""
        square_A = self.attribute_vectors().detach().square().mean(1)
        found = {name: square_A[self.get_buffer("kind") == place] for place, name in enumerate(self._attributes)}
        return {name: float(squares.mean().sqrt()) if len(squares) else 0.0 for name, squares in found.items()}

    def extra_repr(self) -> str:
        return f"layers={self._layers}, relations={list(self._relations)}, attributes={list(self._attributes)}"

    def user_vectors(self, inputs: UserInputs, tables: Tables) -> Tensor:
        own = super().user_vectors(inputs, tables)
        return own if inputs.attributes is None else own + propagate(inputs.attributes, self.attribute_vectors())

    def attribute_vectors(self) -> Tensor:
        """What each value adds to a user with no other value of the same attribute, ``[A, D]``."""
        weights_A = self.attribute_trust[self.get_buffer("kind")] * self.get_buffer("is_shared")
        return self.values * weights_A[:, None]

    def tables(self) -> Tables:
        ids: Tensor = self.vectors
        if self.training:
            shown = torch.rand(len(ids), 1, device=ids.device) >= _ID_DROPOUT
            ids = ids * shown / (1 - _ID_DROPOUT)
        current = ids if self.from_text is None else ids + self.from_text(self.get_buffer("features"))
        total, shares = current, torch.softmax(self.trust, 0)
        if not self._relations:
            return Tables(current, current, self.bias)
        for _ in range(self._layers):
            messages = [
                shares[place] * propagate(one, propagate(one.transposed, current * self.transforms[place]))
                for place, one in enumerate(self._relations.values())
            ]
            current = torch.stack(messages).sum(0)
            total = total + current
        smooth = total / (self._layers + 1)
        return Tables(smooth, smooth, self.bias)


def item_relations(dataset: Dataset) -> dict[str, Adjacency]:
    """Relations between items, by name: users of each behaviour, values of each attribute, and links; ``[I, N]`` each.

    Relations without an edge are left out, as are values held by a single item or by more than half of the items.
    """
    events = dataset.interactions
    relations: dict[str, Adjacency] = {}
    positive = np.ones(len(events), np.bool_) if events.confidence is None else events.confidence > 0
    for code, behaviour in enumerate(events.behaviours):
        chosen = positive if events.behaviour is None else positive & (events.behaviour == code)
        relations[behaviour] = _adjacency(
            events.item[chosen], events.user[chosen], (dataset.num_items, dataset.num_users), dataset.num_users
        )
    for name, attribute in dataset.item_catalogue.attributes.items():
        items, values = attribute.codes.row_of_value, attribute.codes.values
        shape = (dataset.num_items, len(attribute.names))
        relations[name] = _adjacency(items, values, shape, int(_LARGEST_SHARE * dataset.num_items))
    if dataset.links is not None:
        edges = np.unique(np.sort(np.stack([dataset.links.row_of_value, dataset.links.values]), axis=0), axis=1)
        values = np.tile(np.arange(edges.shape[1]), 2)
        relations[LINKS] = _adjacency(edges.ravel(), values, (dataset.num_items, edges.shape[1]), 2)
    return {name: one for name, one in relations.items() if one.num_edges}


def _adjacency(items: NDArray[np.integer], others: NDArray[np.integer], shape: tuple[int, int], most: int) -> Adjacency:
    matrix = sp.csr_matrix((np.ones(len(items), np.float32), (items, others)), shape=shape)
    matrix.sum_duplicates()
    degree = np.bincount(matrix.indices, minlength=shape[1])
    kept = (degree >= 2) & (degree <= most)
    matrix.data = kept[matrix.indices].astype(np.float32)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return Adjacency.from_pattern(matrix)
