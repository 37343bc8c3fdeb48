"""Token ids in padded batches of similar length."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def pad_right(batch: list[NDArray[np.int32]], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Ids and mask, int64 ``[B, L]``; padded on the right whatever the tokenizer's default, padding masked out."""
    import torch  # serving batches texts without it

    lengths = np.array([len(ids) for ids in batch])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate(batch)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def batches_of_tokens(lengths: NDArray[np.integer], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows in batches of similar length, longest first, with at most ``budget`` padded tokens per batch.

    A text longer than the budget forms its own batch; texts of length 0 are left out.
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        stop = start + max(1, budget // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop
