"""The network behind every trained model: one or more views of the items, combined by one fusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.data.interactions import UserBatch
from lanner.data.ranking import top_k
from lanner.inference.cold_start import shares_of
from lanner.models.fusion import Fusion, PairInputs
from lanner.models.views import Tables, UserInputs, View

_ROWS_AT_ONCE = 128
_PAIR_BYTES = 16 << 20
"""Memory of a ranking head for one block of user-item pairs: about the size of a cache."""
_HIDDEN_BYTES = 256
"""Bytes that the widest head needs per pair."""


@dataclass(frozen=True)
class ItemSide:
    """Everything about the items that does not depend on the user: one entry per view.

    own: the tables, in which cold items already borrow. borrow: computes ``borrowed``.
    """

    own: list[Tables]
    is_cold_I: Tensor
    borrow: Callable[[], list[Tables]]

    @cached_property
    def borrowed(self) -> list[Tables]:
        """The tables that each item would have if it were cold."""
        return self.borrow()

    def take(self, columns_C: Tensor, pretend_cold_C: Tensor | None = None) -> tuple[list[Tables], Tensor]:
        """Tables of some items; those marked in ``pretend_cold_C`` are treated as unseen."""
        is_cold_C = self.is_cold_I[columns_C]
        own = [_rows(tables, columns_C) for tables in self.own]
        if pretend_cold_C is None:
            return own, is_cold_C
        borrowed = [_rows(tables, columns_C) for tables in self.borrowed]
        mixed = [_where(pretend_cold_C, first, second) for first, second in zip(borrowed, own, strict=True)]
        return mixed, is_cold_C | pretend_cold_C


class RecommenderNetwork(nn.Module):
    """Views and their fusion over one catalogue.

    degrees: interactions of each item in training ``[I]``. features_IF: text features, by which unseen items
    borrow graph vectors from the ``num_neighbours`` items with the most similar texts; None: no borrowing.
    read_profiles: profile texts → features ``[B, F]``. kind_A: the attribute of each value of the users' attributes.
    fanout: see ``NeuralConfig``.
    """

    def __init__(
        self,
        views: dict[str, View],
        fusion: Fusion,
        degrees: NDArray[np.int64],
        num_users: int,
        num_neighbours: int,
        read_profiles: Callable[[Sequence[str]], Tensor] | None,
        kind_A: NDArray[np.int32] | None = None,
        fanout: int = 0,
    ) -> None:
        super().__init__()
        self.views = nn.ModuleDict(views)
        self.fusion = fusion
        self.num_users, self.num_items = num_users, len(degrees)
        self.read_profiles, self._kind_A, self.fanout = read_profiles, kind_A, fanout
        borrows = "language" in views
        self.register_buffer("is_cold", torch.from_numpy(degrees == 0) & borrows)
        self.register_buffer("lenders", torch.zeros(len(degrees), num_neighbours if borrows else 0, dtype=torch.int32))
        self.register_buffer("shares", torch.zeros(len(degrees), num_neighbours if borrows else 0))

    def extra_repr(self) -> str:
        return f"fanout={self.fanout}" if self.fanout else ""

    @property
    def device(self) -> torch.device:
        return self.get_buffer("is_cold").device

    def find_lenders(self, features_IF: NDArray[np.float32], first_item: int = 0) -> None:
        """Fill in the items from which each item would borrow: those seen in training with the nearest texts.

        first_item: first item to fill in; items from there on do not lend, unless it is 0.
        """
        lenders, shares = self.get_buffer("lenders"), self.get_buffer("shares")
        is_warm = ~self.get_buffer("is_cold").cpu().numpy()
        warm = np.flatnonzero(is_warm[: first_item or self.num_items]).astype(np.int32)
        for first in range(first_item, self.num_items, _ROWS_AT_ONCE):
            rows = np.arange(first, min(first + _ROWS_AT_ONCE, self.num_items))
            cosines = features_IF[rows] @ features_IF[warm].T
            cosines[warm[None, :] == rows[:, None]] = -np.inf
            places, similarities = top_k(cosines, lenders.shape[1])
            exists = places >= 0
            near = features_IF[warm[np.maximum(places, 0)]] * exists[:, :, None]
            found = shares_of(near, np.where(exists, similarities, 0))
            lenders[rows] = torch.from_numpy(warm[np.maximum(places, 0)]).to(lenders.device)
            shares[rows] = torch.from_numpy(found).to(shares.device)

    @torch.no_grad()
    def take_over(self, before: "RecommenderNetwork") -> None:
        """Copy what ``before`` learned about its items, which come first here; later items are untrained."""
        is_cold = before.get_buffer("is_cold")
        for own, old in zip(self._views, before._views, strict=True):
            own.take_over(old, ~is_cold)
        self.fusion.load_state_dict(before.fusion.state_dict())
        for name in ("lenders", "shares"):
            self.get_buffer(name)[: before.num_items] = before.get_buffer(name)

    def inputs(self, users: UserBatch) -> UserInputs:
        """Inputs of the views for a batch of users."""
        profiles = None
        if self.read_profiles is not None and users.profiles is not None:
            profiles = self.read_profiles(users.profiles).to(self.device)
        return UserInputs.of(users, self.num_items, self.num_users, profiles, self._kind_A)

    @torch.no_grad()
    def item_side(self) -> ItemSide:
        """The item tables of every view, ready for any user."""
        self.eval()  # in training mode, views mask part of their inputs
        is_cold = self.get_buffer("is_cold")
        tables = [Tables(*(table.detach() for table in view.tables())) for view in self._views]
        cold = is_cold.nonzero()[:, 0]
        # The language view of an item never depends on its interactions: nothing to borrow there.
        lends = [name != "language" for name in self.views]

        def borrow() -> list[Tables]:
            every = torch.arange(self.num_items, device=self.device)
            return [self._borrow(one, every) if lent else one for one, lent in zip(tables, lends, strict=True)]

        own = [
            _with_rows(one, cold, self._borrow(one, cold)) if lent and len(cold) else one
            for one, lent in zip(tables, lends, strict=True)
        ]
        return ItemSide(own, is_cold, borrow)

    def _borrow(self, tables: Tables, rows: Tensor) -> Tables:
        """The rows that some items borrow from the tables."""
        lenders, shares = self.get_buffer("lenders")[rows].long(), self.get_buffer("shares")[rows]
        if lenders.shape[1] == 0:
            return _rows(tables, rows)
        mean = [
            torch.stack([shares[:, k, None] * table[lenders[:, k]] for k in range(lenders.shape[1])]).sum(0)
            for table in (tables.source_ID, tables.target_ID, tables.bias_I[:, None])
        ]
        return Tables(mean[0], mean[1], mean[2][:, 0])

    def user_side(self, inputs: UserInputs, items: ItemSide) -> list[Tensor]:
        """h_u of every view, V tensors ``[B, D_v]``."""
        return [view.user_vectors(inputs, tables) for view, tables in zip(self._views, items.own, strict=True)]

    def pairs(self, users: list[Tensor], tables: list[Tables], is_cold_C: Tensor) -> PairInputs:
        """Inputs of the fusion for B users and C items."""
        targets = [table.target_ID for table in tables]
        scores = [user @ table.target_ID.T + table.bias_I for user, table in zip(users, tables, strict=True)]
        return PairInputs(users, targets, scores, is_cold_C)

    @torch.no_grad()
    def score(self, users: UserBatch, items: ItemSide) -> NDArray[np.float32]:
        """Scores of every item, float32 ``[B, I]``, in blocks of users whose pairs fit into the cache."""
        self.eval()
        vectors = self.user_side(self.inputs(users), items)
        step = max(1, _PAIR_BYTES // (_HIDDEN_BYTES * self.num_items))
        blocks = [
            self.fusion(self.pairs([vector[first : first + step] for vector in vectors], items.own, items.is_cold_I))
            for first in range(0, max(len(users), 1), step)
        ]
        return torch.cat(blocks).float().cpu().numpy()

    @property
    def _views(self) -> list[View]:
        return [view for view in self.views.values() if isinstance(view, View)]


def _rows(tables: Tables, rows: Tensor) -> Tables:
    return Tables(*(table[rows] for table in tables))


def _with_rows(tables: Tables, rows: Tensor, others: Tables) -> Tables:
    """The tables with some rows replaced; copies."""
    changed = [table.clone() for table in tables]
    for table, other in zip(changed, others, strict=True):
        table[rows] = other
    return Tables(*changed)


def _where(mask_I: Tensor, yes: Tables, no: Tables) -> Tables:
    return Tables(
        torch.where(mask_I[:, None], yes.source_ID, no.source_ID),
        torch.where(mask_I[:, None], yes.target_ID, no.target_ID),
        torch.where(mask_I, yes.bias_I, no.bias_I),
    )
