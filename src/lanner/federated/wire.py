"""Wire protocol of secure aggregation: one server with a connection to each client, fixed binary messages.

Both sides prove knowledge of a shared key before any large message is read, and every wait has a deadline. Connections
are not encrypted: use them in a private network, or through a tunnel. The messages, with little-endian integers:

1. server → client: 32 random bytes.
2. client → server: number (4 bytes), public key (32), form of its words (48), 32 random bytes, proof (32: HMAC-SHA256
   of message 1 and the preceding fields). A form is the number of words (8), their bytes when packed (8), and the
   SHA-256 of their encoding (32).
3. server → client, if the proof is valid: form of the server's words (48), proof (32: HMAC-SHA256 of that form and the
   client's random bytes). A client with a different form is rejected.
4. server → client: round number (4, from 1), number of clients (4), then number and key of each client (36).
5. client → server: its masked words, packed. A client that finds too few clients in message 4 leaves instead.
6. server → client: 0 (4), clients in the sum (4), and the sum, packed; or message 4 again, without those that left.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import ConfigError, LannerError
from lanner.federated.secure_sum import FixedPoint, Masker, Words, total_of

Address = tuple[str, int]
_NUMBER, _BYTES, _FORM = 4, 32, 48
_HANDSHAKE_S = 10.0
_MAX_UNAUTHENTICATED, _MAX_CLIENTS = 256, 100_000
_CONNECTION_ERRORS = (OSError, EOFError, TimeoutError)


class RoundFailed(LannerError):
    """A round cannot be completed: fewer than two clients are left, or the connection was lost."""


@dataclass(frozen=True)
class _Member:
    key: bytes
    reader: StreamReader
    writer: StreamWriter


class Server:
    """Sums the clients' vectors."""

    def __init__(self, address: Address, authkey: bytes, deadline_s: float = 600.0) -> None:
        """address: to listen on; port 0: any free port.

        deadline_s: until all clients have connected, and for each message of a round.

        Raises:
            ConfigError: ``address`` cannot be listened on, or an argument is of the wrong type or out of range.
        """
        _check(authkey, deadline_s)
        try:
            self._socket = socket.create_server(address)
        except (OSError, OverflowError, TypeError) as error:
            raise ConfigError(f"address {address}: cannot listen there ({error}); give another") from None
        self.address: Address = self._socket.getsockname()
        self._authkey, self._deadline_s = authkey, deadline_s
        self.bytes_received = self.bytes_sent = 0
        """Of vectors, packed."""

    def total(self, clients: int, form: FixedPoint) -> tuple[NDArray[np.float64], int]:
        """The sum of the vectors of ``clients`` clients, ``[form.size]``, and the number of clients included.

        Raises:
            ConfigError: ``clients`` is not a number of at least 2.
            RoundFailed: not all clients connected before the deadline, or fewer than two are left.
        """
        if not isinstance(clients, int) or not 2 <= clients <= _MAX_CLIENTS:
            raise ConfigError(f"clients must be a whole number from 2 to {_MAX_CLIENTS:,}, received {clients!r}")
        total, left = asyncio.run(self._total(clients, form))
        return form.decoded(total), left

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def _total(self, clients: int, form: FixedPoint) -> tuple[Words, int]:
        members = dict[int, _Member]()
        complete, unauthenticated = asyncio.Event(), set[StreamWriter]()

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            if len(unauthenticated) < _MAX_UNAUTHENTICATED and len(members) < clients:
                unauthenticated.add(writer)
                try:
                    number, member = await self._handshake(reader, writer, _described(form))
                finally:
                    unauthenticated.discard(writer)
                if member is not None and number not in members and len(members) < clients:
                    members[number] = member
                    if len(members) == clients:
                        complete.set()
                    return
            writer.close()

        async with await asyncio.start_server(accept, sock=self._socket.dup()):
            try:
                async with asyncio.timeout(self._deadline_s):
                    await complete.wait()
            except TimeoutError:
                num_connected = len(members)
                raise RoundFailed(
                    f"only {num_connected} of {clients} clients connected within {self._deadline_s:g} s"
                ) from None
        try:
            return await self._rounds(members, clients, form)
        finally:
            for member in members.values():
                member.writer.close()

    async def _handshake(self, reader: StreamReader, writer: StreamWriter, form: bytes) -> tuple[int, _Member | None]:
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                nonce = secrets.token_bytes(_BYTES)
                writer.write(nonce)
                hello = await reader.readexactly(_NUMBER + 3 * _BYTES + _FORM)
                payload, proof = hello[:-_BYTES], hello[-_BYTES:]
                if not hmac.compare_digest(proof, _proof(self._authkey, nonce + payload)):
                    return 0, None
                writer.write(form + _proof(self._authkey, form + payload[-_BYTES:]))
                await writer.drain()
        except _CONNECTION_ERRORS:
            return 0, None
        number, key, client_form = (
            payload[:_NUMBER],
            payload[_NUMBER : _NUMBER + _BYTES],
            payload[-_BYTES - _FORM : -_BYTES],
        )
        return int.from_bytes(number, "little"), _Member(key, reader, writer) if client_form == form else None

    async def _rounds(self, members: Mapping[int, _Member], clients: int, form: FixedPoint) -> tuple[Words, int]:
        left, number = dict(members), 0
        while len(left) >= 2:
            number += 1
            keys = b"".join(one.to_bytes(_NUMBER, "little") + member.key for one, member in sorted(left.items()))
            message = _head(number, len(left)) + keys
            received = await asyncio.gather(*(self._request_words(member, message, form) for member in left.values()))
            words = [one for one in received if one is not None]
            if len(words) == len(left):
                total = total_of(words)
                packed = form.packed(total)
                message = _head(0, len(left)) + packed
                self.bytes_sent += len(packed) * len(left)
                await asyncio.gather(*(self._send_sum(member, message) for member in left.values()))
                return total, len(left)
            left = {one: member for (one, member), came in zip(left.items(), received, strict=True) if came is not None}
        raise RoundFailed(f"only {len(left)} of {clients} clients are left; at least 2 are needed")

    async def _request_words(self, member: _Member, message: bytes, form: FixedPoint) -> Words | None:
        """A client's words; None if they do not arrive in time."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
                content = await member.reader.readexactly(form.num_bytes)
        except _CONNECTION_ERRORS:
            return None
        self.bytes_received += len(content)
        return form.unpacked(content)

    async def _send_sum(self, member: _Member, message: bytes) -> None:
        """Send the sum; a client that has disconnected is still included in it."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
        except _CONNECTION_ERRORS:
            pass


def join(
    address: Address,
    authkey: bytes,
    number: int,
    values: NDArray[Any],
    form: FixedPoint,
    *,
    min_clients: int = 3,
    deadline_s: float = 3600.0,
) -> NDArray[np.float64]:
    """Join an aggregation with this client's ``values``, ``[form.size]``; returns the sum over all clients.

    number: unique number of this client, from 0 to 2^32 − 1. min_clients: nothing is sent to a sum over fewer clients,
    this one included; a sum over two shows each client the other's values.

    Raises:
        ConfigError: an argument is of the wrong type or out of range.
        RoundFailed: the server cannot be reached, has a different key, closed the connection before answering, or
            sums too few clients.
    """
    _check(authkey, deadline_s)
    if not isinstance(number, int) or not 0 <= number < 1 << 8 * _NUMBER:
        raise ConfigError(f"number must be a whole number from 0 to {(1 << 8 * _NUMBER) - 1}, received {number!r}")
    if not isinstance(min_clients, int) or min_clients < 2:
        raise ConfigError(f"min_clients must be a whole number of at least 2, received {min_clients!r}")
    words = form.encoded(values)
    try:
        total = asyncio.run(asyncio.wait_for(_join(address, authkey, number, words, form, min_clients), deadline_s))
        return form.decoded(total)
    except (*_CONNECTION_ERRORS, OverflowError) as error:
        reason = str(error) or "it did not answer"
        if isinstance(error, EOFError):
            reason = f"it closed the connection: it has another key, or another client has the number {number}"
        raise RoundFailed(f"the server at {address[0]}:{address[1]} is gone or refused ({reason})") from None


async def _join(
    address: Address, authkey: bytes, number: int, words: Words, form: FixedPoint, min_clients: int
) -> Words:
    masker, own = Masker(number), _described(form)
    reader, writer = await asyncio.open_connection(*address)
    try:
        nonce = secrets.token_bytes(_BYTES)
        payload = number.to_bytes(_NUMBER, "little") + masker.public_key + own + nonce
        writer.write(payload + _proof(authkey, await reader.readexactly(_BYTES) + payload))
        theirs = await reader.readexactly(_FORM)
        if not hmac.compare_digest(await reader.readexactly(_BYTES), _proof(authkey, theirs + nonce)):
            raise OSError("it does not know the shared key")
        if theirs != own:
            raise OSError(f"it sums {_in_words(theirs)}, and this client has {_in_words(own)}")
        while True:
            head = await reader.readexactly(2 * _NUMBER)
            round_number, clients = (int.from_bytes(part, "little") for part in (head[:_NUMBER], head[_NUMBER:]))
            if not round_number:
                return form.unpacked(await reader.readexactly(form.num_bytes))
            if clients > _MAX_CLIENTS:
                raise OSError(f"it names {clients} clients")
            keys = _keys_of(await reader.readexactly(clients * (_NUMBER + _BYTES)))
            if keys.get(number) != masker.public_key:
                raise OSError(f"it lists clients without number {number} and its key")
            if len(set(keys.values())) < min_clients:
                raise RoundFailed(
                    f"the server at {address[0]}:{address[1]} sums {len(keys)} clients, this client demands at least "
                    f"{min_clients}; nothing was sent to this sum"
                )
            writer.write(form.packed(masker.masked(words, keys, round_number)))
            await writer.drain()
    finally:
        writer.close()


def _check(authkey: bytes, deadline_s: float) -> None:
    if not isinstance(authkey, bytes) or not authkey:
        raise ConfigError(f"authkey must be bytes that server and clients share, received {type(authkey).__name__}")
    if not 0 < deadline_s < math.inf:
        raise ConfigError(f"deadline_s must be a positive number of seconds, received {deadline_s}")


def _described(form: FixedPoint) -> bytes:
    """A form as it is compared by server and clients."""
    runs = [(int(count), int(bits)) for count, bits in form.runs]
    encoding = hashlib.sha256(repr((float(form.scale), runs, form.signed)).encode()).digest()
    return form.size.to_bytes(8, "little") + form.num_bytes.to_bytes(8, "little") + encoding


def _in_words(form: bytes) -> str:
    count, size = (int.from_bytes(part, "little") for part in (form[:8], form[8:16]))
    return f"{count} words in {size} bytes, encoding {form[16:20].hex()}"


def _proof(authkey: bytes, message: bytes) -> bytes:
    return hmac.digest(authkey, message, "sha256")


def _head(round_number: int, clients: int) -> bytes:
    return round_number.to_bytes(_NUMBER, "little") + clients.to_bytes(_NUMBER, "little")


def _keys_of(entries: bytes) -> dict[int, bytes]:
    size = _NUMBER + _BYTES
    parts = (entries[at : at + size] for at in range(0, len(entries), size))
    return {int.from_bytes(part[:_NUMBER], "little"): part[_NUMBER:] for part in parts}
