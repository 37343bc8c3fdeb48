"""Secure aggregation: the server learns the sum of the clients' vectors and nothing else about any of them.

Each pair of neighbouring clients agrees on a secret (X25519) and expands it to a mask (AES in counter mode), which one
adds and the other subtracts, modulo the word size: masks cancel in the sum (Bonawitz et al., CCS 2017). A client has a
few neighbours on a ring instead of all others (Bell et al., CCS 2020), so that the total cost of masks is linear in the
number of clients. All neighbours of a client, colluding with the server, could unmask it. If a client drops out, the
round is repeated among the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError, optional_module

NEIGHBOURS = 8
"""Clients with which each client shares masks, half on each side of the ring."""
_KEY_BYTES, _NONCE = 32, bytes(16)

Words = NDArray[Any]
"""A vector modulo a power of two, uint16, uint32 or uint64; bits above those of its encoding have no meaning."""
_CHUNK = 1 << 16
"""Words that are packed at once; a multiple of 8, so that each chunk ends with a whole byte."""


@dataclass(frozen=True)
class FixedPoint:
    """Encoding of a vector: ``value · scale``, rounded, in words of as many bits as their sum needs.

    runs: (number of words, bits of each, 1 … 64) of each run of equal words; together the whole vector.
    signed: the sum lies within ± 2^(bits − 1) / ``scale``, else from 0 to below 2^bits / ``scale``. A sum beyond that
    wraps around, which cannot be detected: the bits must follow from a bound that holds for all clients together.
    """

    scale: float
    runs: tuple[tuple[int, int], ...]
    signed: bool = True

    def encoded(self, values: NDArray[Any]) -> Words:
        """Encode values ``[size]`` as words.

        Raises:
            ConfigError: another number of values, or one that is not finite or out of range.
        """
        if np.shape(values) != (self.size,):
            raise ConfigError(f"the sum has {self.size} values, received an array of shape {list(np.shape(values))}")
        scaled = np.rint(np.asarray(values, np.float64) * self.scale)
        above_W = np.exp2(self._bits_W - self.signed)
        least_W = -above_W if self.signed else np.zeros(1)
        if not ((scaled >= least_W) & (scaled < above_W)).all():
            raise ConfigError(f"a client's values do not fit {self.bits} bits")
        return scaled.astype(np.int64).astype(self.dtype)

    def decoded(self, total: Words) -> NDArray[np.float64]:
        """Decode words to numbers."""
        unused_W = (64 - self._bits_W).astype(np.uint64)
        high_W = total.astype(np.uint64) << unused_W
        whole_W = high_W.view(np.int64) >> unused_W.astype(np.int64) if self.signed else high_W >> unused_W
        return whole_W.astype(np.float64) / self.scale

    def packed(self, words: Words) -> bytes:
        """The meaningful bits of the words, the highest first; each run ends with a whole byte."""
        return b"".join(
            _packed(words[at : min(at + _CHUNK, end)], bits)
            for end, (count, bits) in zip(np.cumsum([count for count, _ in self.runs]), self.runs, strict=True)
            for at in range(int(end) - count, int(end), _CHUNK)
        )

    def unpacked(self, content: bytes) -> Words:
        """Words from ``num_bytes`` bytes; the reverse of ``packed``."""
        parts, at = [np.zeros(0, self.dtype)], 0
        for count, bits in self.runs:
            for first in range(0, count, _CHUNK):
                size = min(_CHUNK, count - first)
                parts.append(_unpacked(content[at : (at := at + -(-size * bits // 8))], size, bits, self.dtype))
        return np.concatenate(parts)

    @property
    def size(self) -> int:
        """The number of words."""
        return sum(count for count, _ in self.runs)

    @property
    def bits(self) -> int:
        """Bits of the widest word."""
        return max((bits for _, bits in self.runs), default=1)

    @property
    def num_bytes(self) -> int:
        """Bytes of a packed vector."""
        return sum(-(-count * bits // 8) for count, bits in self.runs)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the words before they are packed."""
        return np.dtype(f"u{2 if self.bits <= 16 else 4 if self.bits <= 32 else 8}")

    @property
    def _bits_W(self) -> NDArray[np.int64]:
        counts, bits = np.array(self.runs, np.int64).reshape(-1, 2).T
        return np.repeat(bits, counts)


def _packed(words: Words, bits: int) -> bytes:
    big_endian = words.astype(words.dtype.newbyteorder(">")).view(np.uint8).reshape(len(words), -1)
    return np.packbits(np.unpackbits(big_endian, axis=1)[:, -bits:]).tobytes()


def _unpacked(content: bytes, count: int, bits: int, dtype: np.dtype[Any]) -> Words:
    table = np.zeros((count, 8 * dtype.itemsize), np.uint8)
    table[:, -bits:] = np.unpackbits(np.frombuffer(content, np.uint8), count=count * bits).reshape(count, bits)
    return np.packbits(table, axis=1).view(dtype.newbyteorder(">"))[:, 0].astype(dtype)


def neighbours_of(client: int, clients: Sequence[int]) -> list[int]:
    """The clients with which a client shares masks: its nearest ones on the ring of client numbers."""
    ordered = sorted(clients)
    place, reach = ordered.index(client), min(NEIGHBOURS // 2, (len(ordered) - 1) // 2)
    near = {ordered[(place + step) % len(ordered)] for step in range(-reach, reach + 1)}
    if len(ordered) == 2:
        near = set(ordered)
    return sorted(near - {client})


@dataclass
class Masker:
    """A client's key pair. number: unique among the clients of a round."""

    number: int
    _private: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._private = _x25519().X25519PrivateKey.generate()

    @property
    def public_key(self) -> bytes:
        """32 bytes, to be sent to the neighbours."""
        raw: bytes = self._private.public_key().public_bytes_raw()
        return raw

    def masked(self, words: Words, public_keys: Mapping[int, bytes], round_number: int) -> Words:
        """The words with all masks applied; meaningless without those of every other client in ``public_keys``.

        public_keys: of all clients of the round. round_number: masks are never reused across rounds.

        Raises:
            ConfigError: fewer than 2 clients, whose sum would be the words themselves, or an invalid key.
        """
        if len(public_keys) < 2:
            raise ConfigError("secure aggregation needs at least 2 clients")
        total = words.copy()
        for other in neighbours_of(self.number, list(public_keys)):
            mask = self._mask(public_keys[other], round_number, words)
            # Unsigned integers wrap around, which is the modulo.
            np.add(total, mask, out=total) if self.number < other else np.subtract(total, mask, out=total)
        return total

    def _mask(self, public_key: bytes, round_number: int, words: Words) -> Words:
        try:
            shared = self._private.exchange(_x25519().X25519PublicKey.from_public_bytes(public_key))
        except ValueError as error:
            raise ConfigError(f"a client's public key is not valid: {error}") from None
        primitives = optional_module(
            "cryptography.hazmat.primitives", "cryptography", "federated", "secure aggregation"
        )
        kdf = optional_module("cryptography.hazmat.primitives.kdf.hkdf", "cryptography", "federated", "masks")
        derive = kdf.HKDF(primitives.hashes.SHA256(), _KEY_BYTES, None, f"lanner round {round_number}".encode())
        ciphers = optional_module("cryptography.hazmat.primitives.ciphers", "cryptography", "federated", "masks")
        stream = ciphers.Cipher(ciphers.algorithms.AES(derive.derive(shared)), ciphers.modes.CTR(_NONCE)).encryptor()
        return np.frombuffer(stream.update(bytes(words.nbytes)), words.dtype)


def total_of(masked: Sequence[Words]) -> Words:
    """The sum of the masked words of all clients of a round; the masks cancel."""
    total = np.zeros_like(masked[0])
    for words in masked:
        np.add(total, words, out=total)
    return total


def _x25519() -> Any:
    return optional_module(
        "cryptography.hazmat.primitives.asymmetric.x25519", "cryptography", "federated", "secure aggregation"
    )
