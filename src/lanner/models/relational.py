"""A relational graph view: typed messages between items, each initialised from its ID and its text.

::

    e⁰_i     = id_i + W f_i
    e^{l+1}  = Σ_r softmax(a)_r · A_r (g_r ∘ e^l)            r over the relations, Σ over all of them 1
    item     = 1/(L+1) Σ_l e^l

A relation connects items: those chosen by the same users (R̃ᵀR̃, one for each behaviour), those that share an
attribute value (Ã Ãᵀ), those with an edge between them (each edge as a value that both ends share), those chosen by
friends (R̃ᵀS̃R̃), and those chosen by users who share an attribute value (C̃C̃ᵀ, C how many users of each value chose an
item). g_r is the relation's own transform (diagonal, as in DistMult and R-GCN's simplest basis, Schlichtkrull et al.,
ESWC 2018), a its interpretable trust. Users carry no parameters: they are the mean of what they chose, plus what their
friends chose, plus the vectors of their attributes::

    user     = 1/|N| Σ_{i ∈ N} item_i + friends + Σ_r w_r · mean_{a ∈ values of r} v_a      r over the users' attributes

v_a is learned for each value, w_r for each attribute. Every step is linear in the history.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lanner.data.catalogue import Catalogue
from lanner.graph.adjacency import Adjacency
from lanner.graph.propagation import propagate
from lanner.models.relations import Layer, Relation
from lanner.models.views import GraphView, Tables, UserInputs, View

_ID_DROPOUT = 0.2
"""Share of the items whose ID is hidden in a step, so that texts and neighbours learn to represent them."""

_UNTRUSTED = -30.0
"""Trust in a relation that was added after training."""


class RelationalView(GraphView):
    """See the module. relations: between items, by name.

    features_IF: of the items' texts; None: without. people: whose attributes users bring; a value of a single user says
    nothing about others, and adds nothing.
    """

    def __init__(
        self,
        interactions: Adjacency,
        relations: Mapping[str, Relation],
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
        self._relations = dict(relations)
        self._message_layers = [Layer(tuple(relations.values()))] * (layers if relations else 0)
        self.trust = nn.Parameter(torch.tensor([one.trust for one in relations.values()]))
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

    def _start(self, items_R: Tensor | None, columns: slice) -> Tensor:
        ids = super()._start(items_R, columns)
        if self.training:
            # Drawn for every item, so that the same are shown whichever rows are computed.
            shown = torch.rand(len(self.vectors), 1, device=ids.device) >= _ID_DROPOUT
            ids = ids * (shown if items_R is None else shown[items_R]) / (1 - _ID_DROPOUT)
        if self.from_text is None:
            return ids
        features = self.get_buffer("features")
        return ids + functional.linear(
            features if items_R is None else features[items_R], self.from_text.weight[columns]
        )

    def _passing(self, columns: slice) -> Callable[[Layer, Tensor], Tensor]:
        shares = torch.softmax(self.trust, 0)

        def pass_on(layer: Layer, current: Tensor) -> Tensor:
            messages = [
                shares[place] * one.messages(current * self.transforms[place, columns])
                for place, one in enumerate(layer.relations)
            ]
            return torch.stack(messages).sum(0)

        return pass_on
