"""The integer contract: what an accelerator computes, bit for bit, derived from the INT8 variant of a scoring model.

::

    c_i   = (w_i · s_i + 2^11) >> 12                       coefficient of a history entry, 12 bits
    u_d   = sat16(round(Σ_i c_i · source_id · m >> s))     user vector
    x_j   = Σ_i c'_i · value_ij                            item-to-item sum; c'_i from the scales of its rows
    z_j   = round(u · target_j · t_j >> p) + sat32(round(x_j · m' >> s')) + bias_j
    score = sat32(z_j)

``round(v >> s)`` is ``(v + 2^(s-1)) >> s`` with an arithmetic shift (half rounds up), and ``v`` for s = 0. ``sat16``
clamps to ±(2^15 − 1), ``sat32`` to ±(2^31 − 1); −2^31 is left to mean "no item". Lists are ordered by score, then by
row; seen rows are left out; where fewer than k rows are left, the list ends with row −1.

Widths: w_i, s_i and s'_i are unsigned 12-bit, so ``128 · 4095 · 4096 < 2^31`` proves that no sum leaves 32 bits for
up to ``MAX_HISTORY`` entries. t_j, m and m' are unsigned 16-bit; shifts are 0 … ``MAX_SHIFT``. p is chosen so that
``|u · target_j · t_j| >> p`` stays below 2^30. A user without entries has u = 0 and x = 0, so scores are biases; such
users are answered by popularity, outside the accelerator.

``reference.py`` implements this in NumPy and is the reference for hardware, emulator and tests.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.interactions import Dataset, UserBatch
from lanner.errors import BundleError, ConfigError
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.inference.sparse import aged, batch_matrix, shares_of, sum_of_sparse_rows
from lanner.inference.tables import Int8Rows, take

VERSION = 1
COEFFICIENT_BITS, USER_BITS, TARGET_SCALE_BITS, MULTIPLIER_BITS = 12, 16, 16, 16
ACCUMULATOR_BITS = SCORE_BITS = 32
MAX_HISTORY, MAX_SHIFT = 4096, 47
ROW_BITS = 20
"""Bits of an item's row: catalogues of up to 1,048,576 items."""
NO_ROW, NO_SCORE = -1, -(2**31)
_LARGEST_COEFFICIENT = 2**COEFFICIENT_BITS - 1
_HEADROOM_BITS = 30
_ARRAYS = ("source", "target", "source_scale", "target_scale", "bias")
_SPARSE = ("indptr", "items", "codes", "scale")
_FITTED_USERS = 2000
VARIANTS = ("distilled", "int8", "full")
"""Variants of a bundle to build an accelerator for, in order of preference."""


@dataclass(frozen=True)
class FixedPoint:
    """``multiplier / 2^shift``: multiplier 0 … 2^16 − 1, shift 0 … ``MAX_SHIFT``."""

    multiplier: int
    shift: int

    @classmethod
    def of(cls, value: float) -> Self:
        """The nearest to a value ≥ 0, using all bits of the multiplier if the shift allows it.

        Raises:
            ConfigError: the value is 2^16 or more.
        """
        exponent = int(np.frexp(value)[1])
        shift = min(MULTIPLIER_BITS - exponent, MAX_SHIFT)
        multiplier = int(np.rint(np.ldexp(value, shift)))
        if multiplier == 1 << MULTIPLIER_BITS:
            multiplier, shift = multiplier >> 1, shift - 1
        if shift < 0:
            raise ConfigError(f"the scale {value:.6g} does not fit {MULTIPLIER_BITS} bits; it must be below 65,536")
        return cls(multiplier, shift)


@dataclass(frozen=True)
class Request:
    """One user's request to the accelerator.

    rows, weights: int64 ``[n]``, distinct rows of the history, 12-bit weights. user, sparse: factors that convert the
    two sums to the scales of user vectors and of scores. seen: int64, ascending distinct rows. k: length of the list.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.int64]
    user: FixedPoint
    sparse: FixedPoint
    seen: NDArray[np.int64]
    k: int = 10


@dataclass(frozen=True)
class SparseCodes:
    """Item-to-item rows in INT8: row i holds ``codes · scale[i]`` for ``items``; scale uint16 ``[I]``, 12 bits."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    codes: NDArray[np.int8]
    scale: NDArray[np.uint16]


@dataclass(frozen=True)
class Units:
    """Float value of one code step: of row scales, user vectors, target scales, item-to-item scales and scores."""

    source: float
    user: float
    target: float
    sparse: float
    score: float


@dataclass(frozen=True)
class Contract:
    """source, target: int8 codes ``[I, D]``. source_scale, target_scale: uint16 ``[I]``, of 12 and 16 bits.

    bias: int32 ``[I]``. score_shift: p.
    """

    source: NDArray[np.int8]
    target: NDArray[np.int8]
    source_scale: NDArray[np.uint16]
    target_scale: NDArray[np.uint16]
    bias: NDArray[np.int32]
    sparse: SparseCodes | None
    score_shift: int
    units: Units

    @property
    def num_items(self) -> int:
        return len(self.bias)

    @property
    def dimensions(self) -> int:
        return int(self.source.shape[1])

    @property
    def dot_bits(self) -> int:
        """Signed bits of a dot product: 2^15 · 2^7 · D, and a sign."""
        return 24 + int(np.ceil(np.log2(max(self.dimensions, 1))))

    @cached_property
    def tied(self) -> bool:
        """Whether one table of codes serves as source and target."""
        return bool(np.array_equal(self.source, self.target))

    @classmethod
    def of(cls, model: ScoringModel, users: UserBatch) -> Self:
        """From an INT8 variant. users: calibration set for the scales of user vectors and scores; larger values clamp.

        Raises:
            ConfigError: a part of the model has no integer form, or there are no INT8 tables or no users.
        """
        source, target = _checked(model)
        if not len(users) or not len(users.history.values):
            raise ConfigError("no user with a history was given; fitting the scales of user vectors needs some")
        source_unit, target_unit = _unit(_scales(source), COEFFICIENT_BITS), _unit(_scales(target), TARGET_SCALE_BITS)
        user_unit = _largest(model.users(users)) / (2 ** (USER_BITS - 1) - 1)
        sparse_unit, largest = 1.0, _largest(model.bias_I)
        if model.item_to_item is not None:
            sparse_unit = _unit(_sparse_scales(model.item_to_item), COEFFICIENT_BITS)
            largest += 2 * _largest(sum_of_sparse_rows(model.shares(users), model.item_matrix))
        dense_unit = user_unit * target_unit
        # A dot product times its target's scale has 22 + log2 D + 16 bits; every other term must fit as well.
        bound_bits = 22 + TARGET_SCALE_BITS + int(np.ceil(np.log2(max(model.dimensions, 1))))
        score_shift = max(0, bound_bits - _HEADROOM_BITS, int(np.ceil(np.log2(largest / dense_unit / 2**29))))
        if not model.dimensions:
            score_shift, dense_unit = 0, largest / 2**29
        if score_shift > MAX_SHIFT:
            raise ConfigError("biases and item-to-item weights exceed 32 bits at the vectors' scale; drop the vectors")
        units = Units(source_unit, user_unit, target_unit, sparse_unit, dense_unit * 2.0**score_shift)
        return cls.in_units(model, units, score_shift)

    @classmethod
    def in_units(cls, model: ScoringModel, units: Units, score_shift: int) -> Self:
        """From an INT8 variant with known scales: bit-identical on every machine.

        Raises:
            ConfigError: a part of the model has no integer form, or there are no INT8 tables.
        """
        source, target = _checked(model)
        sparse = None if model.item_to_item is None else _sparse_codes(model.item_to_item, units.sparse)
        bias = np.rint(model.bias_I.astype(np.float64) / units.score).astype(np.int32)
        scales = _codes(_scales(source), units.source), _codes(_scales(target), units.target)
        return cls(source.codes, target.codes, *scales, bias, sparse, score_shift, units)

    def request(
        self, rows: NDArray[np.integer], shares: NDArray[np.floating], seen: NDArray[np.integer], k: int = 10
    ) -> Request:
        """rows: distinct history items. shares: their weights, aged and normalised by the model (``model.shares``).

        Raises:
            ConfigError: the history is too long, k is below 1, a row is outside the catalogue, or a share is negative.
        """
        self._check_request(rows, shares, seen, k)
        weights = shares.astype(np.float64)
        largest = float(weights.max(initial=0.0)) or 1.0
        codes = np.rint(weights / largest * _LARGEST_COEFFICIENT).astype(np.int64)
        step = 2.0**COEFFICIENT_BITS * largest / _LARGEST_COEFFICIENT  # c_i stands for w_i s_i / 2^12
        user = FixedPoint.of(step * self.units.source / self.units.user)
        sparse = FixedPoint.of(step * self.units.sparse / self.units.score) if self.sparse else FixedPoint(0, 0)
        return Request(rows.astype(np.int64), codes, user, sparse, np.unique(seen).astype(np.int64), k)

    def _check_request(
        self, rows: NDArray[np.integer], shares: NDArray[np.floating], seen: NDArray[np.integer], k: int
    ) -> None:
        if len(rows) > MAX_HISTORY:
            raise ConfigError(f"a history of {len(rows):,} entries exceeds the proven limit of {MAX_HISTORY:,}")
        for name, given in (("history", rows), ("seen", seen)):
            if len(given) and not 0 <= int(given.min()) <= int(given.max()) < self.num_items:
                raise ConfigError(
                    f"{name}: rows {given.min()} … {given.max()} are outside a catalogue of {self.num_items:,} items"
                )
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1")
        if len(shares) and not (np.isfinite(shares).all() and shares.min() >= 0):
            raise ConfigError(f"history: weights must be finite and not negative; the smallest is {shares.min()}")

    # --- files -------------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Stored arrays by name."""
        named: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        return named | (
            {} if self.sparse is None else {f"sparse.{name}": getattr(self.sparse, name) for name in _SPARSE}
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, JSON-compatible."""
        return {"version": VERSION, "score_shift": self.score_shift, "units": vars(self.units)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Self:
        """The inverse of ``arrays`` and ``facts``."""
        sparse = SparseCodes(*(arrays[f"sparse.{name}"] for name in _SPARSE)) if "sparse.codes" in arrays else None
        named: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        return cls(**named, sparse=sparse, score_shift=int(facts["score_shift"]), units=Units(**facts["units"]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the facts and arrays; its first 32 bits are stored in a register of the accelerator."""
        found = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode())
        for name, array in sorted(self.arrays().items()):
            found.update(f"{name} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def requests_of(contract: Contract, model: ScoringModel, users: UserBatch, k: int = 10) -> list[Request]:
    """One request per user; seen items are excluded."""
    matrix = shares_of if model.normalises else batch_matrix
    shares = matrix(aged(users, model.recency), model.num_items)
    seen = users.history if users.seen is None else users.seen
    ends = zip(shares.indptr[:-1], shares.indptr[1:], strict=True)
    entries = [(shares.indices[first:last], shares.data[first:last]) for first, last in ends]
    return [contract.request(rows, weights, seen[user], k) for user, (rows, weights) in enumerate(entries)]


def contract_of(model: ScoringModel, dataset: Dataset, stated: Mapping[str, Any] | None = None) -> Contract:
    """The contract of a bundle's variant.

    stated: the bundle's ``statement``, which may be of a variant in floats, rounded; None: scales are fitted on a
    sample of the dataset's users.

    Raises:
        ConfigError: the variant has no integer form. BundleError: it differs from the statement.
    """
    if stated is None:
        users = dataset.user_batch()
        rows = np.random.default_rng(0).permutation(len(users))[:_FITTED_USERS]
        return Contract.of(model, users.take(np.sort(rows)))
    contract = Contract.in_units(in_int8(model), Units(**stated["units"]), int(stated["score_shift"]))
    if stated["version"] != VERSION or contract.digest != stated["sha256"]:
        raise BundleError(
            f"the bundle states the integer contract {stated['sha256'][:12]} (version {stated['version']}), "
            f"its tables give {contract.digest[:12]} (version {VERSION}); compress it again"
        )
    return contract


def in_int8(model: ScoringModel) -> ScoringModel:
    """The model with the tables of items in INT8: rounded here unless they are."""
    return model.map_tables(lambda table: table if isinstance(table, Int8Rows) else Int8Rows.of(take(table)))


def statement(contract: Contract) -> dict[str, Any]:
    """What a bundle stores of a contract, JSON-compatible; with the variant's tables it reproduces the contract."""
    return {**contract.facts, "sha256": contract.digest}


def _checked(model: ScoringModel) -> tuple[Int8Rows, Int8Rows]:
    unsupported = {"head": model.head, "user solve (FoldIn)": model.fold_in}
    for part, value in unsupported.items():
        if value is not None:
            raise ConfigError(f"the model has a {part}, which has no integer form; use a model without one")
    if model.attribute_AD is not None or (model.item_to_item is not None and model.item_to_item.sums):
        raise ConfigError("the model reads users' attributes, which have no integer form; leave the users file out")
    if model.num_items > 1 << ROW_BITS:
        raise ConfigError(
            f"{model.num_items:,} items do not fit the {1 << ROW_BITS:,} rows that {ROW_BITS} bits can address"
        )
    source, target = model.source_ID, model.target_ID
    if not (isinstance(source, Int8Rows) and isinstance(target, Int8Rows)):
        if model.dimensions:
            raise ConfigError("the model has no INT8 tables; give the variant int8 or distilled of a compressed bundle")
        empty = Int8Rows.of(take(source))  # no dimensions: there is nothing to round
        return empty, empty
    return source, target


def _largest(values: NDArray[np.floating]) -> float:
    """Largest absolute value; 1 if there is none or it is 0."""
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _unit(scale: NDArray[np.floating], bits: int) -> float:
    return _largest(scale) / ((1 << bits) - 1)


def _codes(scale: NDArray[np.floating], unit: float) -> NDArray[np.uint16]:
    return np.rint(scale.astype(np.float64) / unit).astype(np.uint16)


def _scales(table: Int8Rows) -> NDArray[np.float32]:
    """Row scales; 0 for a row of zeros, whose own scale would cost the others precision."""
    return table.scale * table.codes.any(axis=1)


def _sparse_scales(rows: SparseRows) -> NDArray[np.float32]:
    lengths = np.diff(rows.indptr)
    largest = np.zeros(len(lengths), np.float32)
    np.maximum.at(largest, np.repeat(np.arange(len(lengths)), lengths), np.abs(rows.values))
    return largest / np.float32(127)


def _sparse_codes(rows: SparseRows, unit: float) -> SparseCodes:
    scale = np.maximum(_codes(_sparse_scales(rows), unit), 1)
    # Codes are computed with the stored scale, so that its rounding adds no error.
    codes = np.clip(np.rint(rows.values / np.repeat(scale * unit, np.diff(rows.indptr))), -127, 127).astype(np.int8)
    return SparseCodes(rows.indptr, rows.items, codes, scale.astype(np.uint16))
