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
"""A vector modulo 2^32 or 2^64, uint32 or uint64."""


@dataclass(frozen=True)
class FixedPoint:
    """Fixed-point encoding: ``value · scale``, rounded, in words of ``bits`` bits, 32 or 64.

    A sum is correct if it is within ± 2^(bits − 1) / ``scale``; an overflow cannot be detected.
    """

    scale: float
    bits: int

    def encoded(self, values: NDArray[Any]) -> Words:
        """Encode values as words.

        Raises:
            ConfigError: a value is not finite or out of range.
        """
        scaled = np.rint(np.asarray(values, np.float64) * self.scale)
        if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0) >= 2.0 ** (self.bits - 1):
            raise ConfigError(f"a client's statistics do not fit {self.bits} bits")
        return scaled.astype(np.int64).astype(self.dtype)

    def decoded(self, total: Words) -> NDArray[np.float64]:
        """Decode words to numbers."""
        return total.view(f"i{self.bits // 8}").astype(np.float64) / self.scale

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the words."""
        return np.dtype(f"u{self.bits // 8}")


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
