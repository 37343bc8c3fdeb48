"""Word protocol and memory layout of an accelerator with external memory (``streamed.py``).

Memory, in words of as many codes as there are lanes: a record for each target, then the codes of each source. A record
is a word with the target's scale in bits 0 … 15 and its bias in bits 16 … 47, then its codes.

A batch is a packet: the number of users; of each user multiplier | shift << 16, history's length | seen << 16, the
history's words row | coefficient << 20, and the seen rows, ascending; then the number of lists, and of each its first
row and its length. A list is a run of targets, of which all users are answered; lists and rows ascend, and the seen
rows that are sent are those that lie in them. The answer is for each user k pairs row, score, then ``Status``; where
that is not 0, it comes alone. Users who may have seen more than fits, and shorter lists, are the host's work.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import ROW_BITS, Contract, Request
from lanner.accelerators.fpga.protocol import Packet, Status
from lanner.accelerators.fpga.streamed import Batch
from lanner.accelerators.reference import Answer, coefficients
from lanner.errors import ConfigError

Lists = Sequence[tuple[int, int]]
"""First rows and lengths, ascending."""


def memory_image(contract: Contract, batch: Batch) -> NDArray[np.uint8]:
    """The memory contents, uint8 ``[words, lanes]``.

    Raises:
        ConfigError: the contract has other sizes or an item-to-item part.
    """
    sizes = batch.sizes
    fits = contract.num_items == sizes.items and contract.dimensions <= sizes.dimensions
    if not fits or contract.score_shift != sizes.score_shift or contract.sparse is not None:
        raise ConfigError(
            f"the accelerator streams {sizes.items:,} items of {sizes.dimensions} dimensions with score shift "
            f"{sizes.score_shift}; the model has {contract.num_items:,}, {contract.dimensions} and "
            f"{contract.score_shift}, {'an' if contract.sparse else 'no'} item-to-item part"
        )
    wide = ((0, 0), (0, sizes.dimensions - contract.dimensions))
    heads = np.zeros((sizes.items, sizes.lanes), np.uint8)
    heads[:, :2] = contract.target_scale.astype("<u2")[:, None].view(np.uint8)
    heads[:, 2:6] = contract.bias.astype("<i4")[:, None].view(np.uint8)
    records = np.concatenate([heads, np.pad(contract.target, wide).view(np.uint8)], axis=1)
    sources = np.pad(contract.source, wide).view(np.uint8)
    return np.concatenate([records.reshape(-1, sizes.lanes), sources.reshape(-1, sizes.lanes)])


def within(rows: NDArray[np.int64], lists: Lists) -> NDArray[np.int64]:
    """The rows that are in the lists."""
    starts, lengths = np.array(lists, np.int64).reshape(-1, 2).T
    if not len(starts):
        return rows[:0]
    place = np.maximum(np.searchsorted(starts, rows, side="right") - 1, 0)
    return rows[(rows >= starts[place]) & (rows < starts[place] + lengths[place])]


def batch_packet(contract: Contract, requests: Sequence[Request], lists: Lists) -> Packet:
    """Requests of several users in one packet."""
    words = [np.array([len(requests)], np.int64)]
    for request in requests:
        seen = within(request.seen, lists)
        head = [request.user.multiplier | request.user.shift << 16, len(request.rows) | len(seen) << 16]
        history = request.rows | coefficients(contract.source_scale, request) << ROW_BITS
        words += [np.array(head, np.int64), history, seen]
    words.append(np.array([len(lists), *np.array(lists, np.int64).reshape(-1)], np.int64))
    return np.concatenate(words).astype(np.uint32)


def read_batch(words: NDArray[np.uint32], k: int) -> tuple[list[Answer], Status]:
    """The users' lists and their status."""
    pairs = words[:-1].reshape(-1, k, 2).view(np.int32).astype(np.int64)
    return [Answer(one[:, 0], one[:, 1]) for one in pairs], Status(int(words[-1]))
