"""Gradient compression: all-reduces that send fewer bytes.

All but ``Dense`` and ``Half`` keep the compression error of a step and add it to the next (error feedback; Karimireddy
et al., 2019). Residuals are stored by parameter name, so that buckets can be rebuilt at any time.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lanner.distributed.wire import Wire
from lanner.errors import ConfigError

_INDEX_BYTES, _VALUE_BYTES = 4, 2


class Compressor(Protocol):
    """All-reduces a bucket of named tensors over a group, in place."""

    kept: dict[str, Tensor]
    """Residuals not sent yet, by name; empty where everything is sent."""
    share: float
    """Approximate bytes sent per byte of gradients."""

    def reduce(self, bucket: Mapping[str, Tensor], wire: Wire) -> None:
        """Replace the tensors, float32 and contiguous, by their sums over the group."""


class Dense:
    """No compression: everything, in its own dtype."""

    share = 1.0

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def reduce(self, bucket: Mapping[str, Tensor], wire: Wire) -> None:
        flat = _flat(bucket)
        wire.sum(flat)
        _unflatten(flat, bucket)


class Half:
    """Float16: half the bytes. Values are divided by the number of ranks before the sum, to avoid overflow."""

    share = 0.5

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def reduce(self, bucket: Mapping[str, Tensor], wire: Wire) -> None:
        flat = (_flat(bucket) / wire.size).half()
        wire.sum(flat)
        _unflatten(flat.float() * wire.size, bucket)


class Gathered:
    """All-gather of encoded vectors; subclasses define the encoding."""

    share: float

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def encode(self, flat: Tensor) -> Tensor:
        """The code, uint8 ``[C]``; C depends only on the length."""
        raise NotImplementedError

    def decode(self, code: Tensor, length: int) -> Tensor:
        """The vector that a code represents, float32 ``[length]``."""
        raise NotImplementedError

    def reduce(self, bucket: Mapping[str, Tensor], wire: Wire) -> None:
        _add_residuals(self.kept, bucket)
        flat = _flat(bucket)
        code = self.encode(flat)
        left = flat - self.decode(code, len(flat))
        for name, part in _parts(left, bucket):
            self.kept[name] = part.clone()
        # In rank order, so that rounding is identical on every rank.
        total = torch.zeros_like(flat)
        for one in wire.gather(code):
            total += self.decode(one, len(flat))
        _unflatten(total, bucket)


class Int8(Gathered):
    """8 bits per value and a scale per block: a quarter of the bytes."""

    share = 0.25

    def __init__(self, block: int = 256) -> None:
        super().__init__()
        self._block = block

    def encode(self, flat: Tensor) -> Tensor:
        blocks = _blocks(flat, self._block)
        scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-30) / 127
        values = (blocks / scales).round().to(torch.int8)
        return torch.cat([values.view(-1).view(torch.uint8), scales.view(-1).view(torch.uint8)])

    def decode(self, code: Tensor, length: int) -> Tensor:
        count = -(-length // self._block)
        values = code[: count * self._block].view(torch.int8).view(count, -1).float()
        scales = _floats(code[count * self._block :])
        return (values * scales[:, None]).view(-1)[:length]


class Sign(Gathered):
    """1 bit per value and the mean magnitude of each block (Bernstein et al., signSGD, 2018): a 30th of the bytes."""

    share = 1 / 31

    def __init__(self, block: int = 1024) -> None:
        super().__init__()
        self._block = block

    def encode(self, flat: Tensor) -> Tensor:
        blocks = _blocks(flat, self._block)
        bits = (blocks >= 0).view(-1, 8).to(torch.uint8)
        weights = (2 ** torch.arange(8, device=flat.device)).to(torch.uint8)
        return torch.cat([(bits * weights).sum(1, dtype=torch.uint8), blocks.abs().mean(1).view(torch.uint8)])

    def decode(self, code: Tensor, length: int) -> Tensor:
        count = -(-length // self._block)
        packed, scales = code[: count * self._block // 8], _floats(code[count * self._block // 8 :])
        bits = (packed[:, None] >> torch.arange(8, device=code.device)) & 1
        return ((bits.view(count, -1).float() * 2 - 1) * scales[:, None]).view(-1)[:length]


class TopK(Gathered):
    """The largest values of a bucket in float16, with indices (Lin et al., Deep Gradient Compression, 2018)."""

    def __init__(self, fraction: float = 0.01) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise ConfigError(f"compression topk: the fraction must be above 0 and at most 1, received {fraction}")
        self._fraction, self.share = fraction, fraction * (_INDEX_BYTES + _VALUE_BYTES) / 4

    def encode(self, flat: Tensor) -> Tensor:
        places = flat.abs().topk(self._count(len(flat)), sorted=False).indices
        values = flat[places].clamp(-65504, 65504).half()
        return torch.cat([places.int().view(torch.uint8), values.view(torch.uint8)])

    def decode(self, code: Tensor, length: int) -> Tensor:
        split = self._count(length) * _INDEX_BYTES
        places = code[:split].clone().view(torch.int32).long()
        return torch.zeros(length, device=code.device).index_add_(
            0, places, code[split:].clone().view(torch.float16).float()
        )

    def _count(self, length: int) -> int:
        return max(1, round(length * self._fraction))


class PowerSGD:
    """Low-rank factors of each matrix by power iteration (Vogels et al., 2019); vectors are sent uncompressed.

    Two all-reduces per bucket. ``basis`` warm-starts each iteration from the last one.
    """

    def __init__(self, rank: int = 4) -> None:
        if rank < 1:
            raise ConfigError(f"compression powersgd: the rank must be at least 1, received {rank}")
        self.kept: dict[str, Tensor] = {}
        self.basis: dict[str, Tensor] = {}
        self._rank, self.share = rank, min(1.0, rank / 128)  # for a 256 × 256 matrix

    def reduce(self, bucket: Mapping[str, Tensor], wire: Wire) -> None:
        able = {name: one for name, one in bucket.items() if one.dim() > 1 and self._is_worthwhile(one)}
        whole = {name: one for name, one in bucket.items() if name not in able}
        _add_residuals(self.kept, able)
        matrices = {name: one.flatten(1) for name, one in able.items()}
        left = {name: matrix @ self._basis_of(name, matrix) for name, matrix in matrices.items()}
        _sum_all({**whole, **left}, wire)
        left = {name: torch.linalg.qr(one).Q for name, one in left.items()}
        right = {name: matrix.T @ left[name] for name, matrix in matrices.items()}
        mine = {name: left[name] @ right[name].T for name in right}
        for name, matrix in matrices.items():
            self.kept[name] = (matrix - mine[name]).view_as(able[name])
        _sum_all(right, wire)
        for name, one in able.items():
            self.basis[name] = right[name]
            one.copy_((left[name] @ right[name].T).view_as(one))

    def _is_worthwhile(self, matrix: Tensor) -> bool:
        rows, columns = matrix.shape[0], matrix[0].numel()
        return self._rank * (rows + columns) < rows * columns and self._rank <= min(rows, columns)

    def _basis_of(self, name: str, matrix: Tensor) -> Tensor:
        if name not in self.basis:
            # The same on every rank, independent of the global random state.
            generator = torch.Generator().manual_seed(sum(name.encode()) + matrix.numel())
            drawn = torch.randn(matrix.shape[1], self._rank, generator=generator)
            self.basis[name] = drawn.to(matrix.device)
        return self.basis[name]


def compressor_of(text: str) -> Compressor:
    """The compressor that ``text`` names: none, fp16, int8, sign, topk[:FRACTION] or powersgd[:RANK].

    Raises:
        ConfigError: an unknown name, or a parameter out of range.
    """
    name, _, figure = text.partition(":")
    try:
        if name == "topk":
            return TopK(float(figure) if figure else 0.01)
        if name == "powersgd":
            return PowerSGD(int(figure) if figure else 4)
    except ValueError:
        raise ConfigError(f"compression '{text}': '{figure}' is not a number") from None
    known: dict[str, type[Compressor]] = {"none": Dense, "fp16": Half, "int8": Int8, "sign": Sign}
    if name not in known or figure:
        raise ConfigError(
            f"unknown compression '{text}'; choose one of {', '.join(known)}, topk:FRACTION, powersgd:RANK"
        )
    return known[name]()


def _flat(bucket: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([one.reshape(-1) for one in bucket.values()])


def _parts(flat: Tensor, bucket: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    pieces = torch.split(flat, [one.numel() for one in bucket.values()])
    return [(name, piece.view_as(one)) for (name, one), piece in zip(bucket.items(), pieces, strict=True)]


def _unflatten(flat: Tensor, bucket: Mapping[str, Tensor]) -> None:
    for name, part in _parts(flat, bucket):
        bucket[name].copy_(part)


def _add_residuals(kept: Mapping[str, Tensor], bucket: Mapping[str, Tensor]) -> None:
    for name, one in bucket.items():
        if name in kept:
            one += kept[name]


def _sum_all(tensors: Mapping[str, Tensor], wire: Wire) -> None:
    if tensors:
        flat = _flat(tensors)
        wire.sum(flat)
        _unflatten(flat, tensors)


def _blocks(flat: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def _floats(code: Tensor) -> Tensor:
    """uint8 reinterpreted as float32; copied, since a float view must be aligned."""
    return code.clone().view(torch.float32)
