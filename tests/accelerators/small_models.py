"""Small INT8 models and adversarial requests for the contract, the hardware and the layers between them."""

from dataclasses import replace

import numpy as np

from lanner.accelerators.contract import MAX_SHIFT, Contract, FixedPoint, Request, Units
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.inference.tables import Int8Rows


def histories(number: int, items: int, longest: int, seed: int = 1) -> UserBatch:
    random = np.random.default_rng(seed)
    lists = [random.choice(items, random.integers(1, longest), replace=False).tolist() for _ in range(number)]
    lists.append([])
    history = Ragged.from_lists(lists)
    return UserBatch(history, weights=random.uniform(0.2, 2, len(history.values)).astype(np.float32))


def model_of(items: int, dimensions: int, *, tied: bool = False, sparse: bool = False, recency: float = 0.05):
    """Random tables whose rows differ in scale, with biases; the sum of parts that the hybrid exports."""
    import scipy.sparse as sp

    random = np.random.default_rng(items + dimensions)

    def table() -> Int8Rows:
        rows = random.normal(size=(items, dimensions)) * random.lognormal(0, 0.7, (items, 1))
        return Int8Rows.of(rows.astype(np.float32))

    source = table()
    target = replace(table(), codes=source.codes) if tied else table()
    bias = random.normal(0, 0.1, items).astype(np.float32)
    rows = sp.random(items, items, 0.15, "csr", np.float32, random_state=3) if sparse else None
    return ScoringModel(
        source,
        target,
        bias,
        np.arange(items, dtype=np.float32),
        (dimensions,),
        recency=recency,
        item_to_item=None if rows is None else SparseRows.of(rows),
    )


def extreme_contract(items: int, dimensions: int, shift: int = 0) -> Contract:
    """Codes and scales at both ends of their ranges, few distinct rows (ties everywhere), biases that saturate."""
    random = np.random.default_rng(9)
    codes = random.integers(-127, 128, (5, dimensions)).astype(np.int8)
    codes[0], codes[1] = 127, -127
    kind = random.integers(0, 5, items)
    bias = random.choice([-(2**31) + 1, -1, 0, 1, 2**31 - 1], items, p=[0.04, 0.2, 0.52, 0.2, 0.04]).astype(np.int32)
    scale = random.choice([1, 2048, 4095], items).astype(np.uint16)
    wide = random.choice([1, 32768, 65535], items).astype(np.uint16)
    return Contract(codes[kind], codes[kind], scale, wide, bias, None, shift, Units(1, 1, 1, 1, 1))


def extreme_requests(contract: Contract, k: int) -> list[Request]:
    """Every shift, empty and long histories, weights at both ends, none or most rows seen, k beyond what is left."""
    random, items = np.random.default_rng(10), contract.num_items
    everything, nothing = np.arange(items), np.empty(0, np.int64)
    found = []
    for shift in range(MAX_SHIFT + 1):
        length = int(random.choice([0, 1, 2, items]))
        rows = np.sort(random.choice(items, length, replace=False))
        weights = random.choice([0, 1, 2047, 4095], length).astype(np.int64)
        seen = [nothing, rows, everything[: items - 2], everything, everything[::3]][shift % 5]
        by = FixedPoint(int(random.choice([0, 1, 32768, 65535])), shift)
        found.append(Request(rows, weights, by, by, seen, 1 + shift % k))
    return found
