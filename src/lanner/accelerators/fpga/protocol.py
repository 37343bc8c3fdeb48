"""The word protocol between host and accelerator, the same for every backend.

A packet is a sequence of 32-bit words, the last of which is marked. The first word holds the operation in bits 28 … 31.

- LOAD_ROWS: address (in words of four codes, a multiple of a beat's) in bits 0 … 23; then codes.
- LOAD_ITEMS: first row in bits 0 … 23; then an item in two words: target_scale | source_scale << 16, bias.
- REQUEST: n in bits 0 … 15, k in bits 16 … 23; multiplier | shift << 16; number of seen rows; then n words
  row | weight << 20; then the seen rows, ascending. With an item-to-item part: multiplier and shift of its sums after
  those of the vector, and after each history word its row: scale | entries << 12, then the entries item | code << 20.

The answer to a request is k pairs row, score, then a word of ``Status`` bits, 0 if the list is valid. A row of −1 means
that no item was left. Bits stay set in the register STATUS until 1 is written to them.
"""

from collections.abc import Sequence
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import COEFFICIENT_BITS, ROW_BITS, Contract, Request, SparseCodes
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.reference import Answer
from lanner.errors import ConfigError

VERSION = 1


class Operation(IntEnum):
    """Packet types."""

    LOAD_ROWS = 1
    LOAD_ITEMS = 2
    REQUEST = 3


class Register(IntEnum):
    """32-bit registers by their word address. ITEMS, TARGET_BASE, CONTRACT can be written while idle."""

    VERSION = 0
    CONTRACT = 1
    STATUS = 2
    SIZES = 3
    ITEMS = 4
    TARGET_BASE = 5
    CYCLES = 6


class Status(IntFlag):
    """Errors of a packet or of a register write."""

    BUSY = 1
    UNKNOWN_OPERATION = 2
    TRUNCATED = 4
    TOO_LONG = 8
    BAD_LIST_LENGTH = 16
    BAD_SHIFT = 32
    HISTORY_TOO_LONG = 64
    ROW_OUT_OF_RANGE = 128
    SEEN_NOT_ASCENDING = 256
    WRITE_WHILE_BUSY = 512


Packet = NDArray[np.uint32]


def _packet(operation: Operation, argument: int, *parts: NDArray[np.integer] | Sequence[int]) -> Packet:
    head = np.array([operation << 28 | argument], np.uint32)
    return np.concatenate([head, *(np.asarray(part).astype(np.uint32) for part in parts)])


def check_fits(contract: Contract, parameters: Parameters) -> None:
    """Raises ``ConfigError`` if a contract does not fit an accelerator; says what would fit."""
    rows = contract.num_items * (1 if contract.tied else 2)
    for name, needed, given in (
        ("dimensions", contract.dimensions, parameters.dimensions),
        ("items", contract.num_items, parameters.items),
        ("rows of vectors", rows, parameters.rows),
    ):
        if needed > given:
            raise ConfigError(
                f"the model has {needed:,} {name}, the accelerator {given:,}: {needed - given:,} too many"
            )
    if contract.score_shift != parameters.score_shift:
        raise ConfigError(
            f"the contract's score shift is {contract.score_shift}, the accelerator's {parameters.score_shift}"
        )
    if (contract.sparse is not None) != parameters.item_to_item:
        has = ("no", "one") if contract.sparse is None else ("an", "none")
        raise ConfigError(f"the model has {has[0]} item-to-item part, the accelerator was built for {has[1]}")


def load(contract: Contract, parameters: Parameters) -> list[Packet]:
    """Packets that load a contract's tables onto the chip: source rows first, then target rows unless tied."""
    check_fits(contract, parameters)
    wide = ((0, 0), (0, parameters.dimensions - contract.dimensions))
    words = parameters.dimensions // 4
    tables = [contract.source] if contract.tied else [contract.source, contract.target]
    packets = [
        _packet(
            Operation.LOAD_ROWS,
            place * contract.num_items * words,
            np.ascontiguousarray(np.pad(table, wide)).reshape(-1).view("<u4"),
        )
        for place, table in enumerate(tables)
    ]
    scales = contract.target_scale.astype(np.uint32) | contract.source_scale.astype(np.uint32) << 16
    items = np.stack([scales, contract.bias.view(np.uint32)], axis=1).reshape(-1)
    return [*packets, _packet(Operation.LOAD_ITEMS, 0, items)]


def settings(contract: Contract) -> dict[Register, int]:
    """What to write to the registers once the tables are loaded."""
    return {
        Register.ITEMS: contract.num_items,
        Register.TARGET_BASE: 0 if contract.tied else contract.num_items,
        Register.CONTRACT: int(contract.digest[:8], 16),
    }


def request_packet(request: Request, sparse: SparseCodes | None = None) -> Packet:
    """One user's request. sparse: the contract's item-to-item codes, whose history rows are included."""
    history = request.rows | request.weights << ROW_BITS
    scales = [request.user.multiplier | request.user.shift << 16]
    if sparse is not None:
        scales.append(request.sparse.multiplier | request.sparse.shift << 16)
        parts = [part for word, row in zip(history, request.rows, strict=True) for part in ([word], _row(sparse, row))]
        history = np.concatenate([np.empty(0, np.int64), *parts])
    head = [*scales, len(request.seen)]
    return _packet(Operation.REQUEST, len(request.rows) | request.k << 16, head, history, request.seen)


def _row(sparse: SparseCodes, row: int) -> NDArray[np.int64]:
    entries = slice(sparse.indptr[row], sparse.indptr[row + 1])
    codes = sparse.codes[entries].view(np.uint8).astype(np.int64)
    head = int(sparse.scale[row]) | len(codes) << COEFFICIENT_BITS
    return np.concatenate([np.array([head], np.int64), sparse.items[entries] | codes << ROW_BITS])


def answer_words(k: int) -> int:
    """Number of words of an answer."""
    return 2 * k + 1


def read_answer(words: NDArray[np.uint32]) -> tuple[Answer, Status]:
    """The list and its status."""
    pairs = words[:-1].reshape(-1, 2).view(np.int32).astype(np.int64)
    return Answer(pairs[:, 0], pairs[:, 1]), Status(int(words[-1]))
