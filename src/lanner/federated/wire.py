"""Wire protocol of secure aggregation: one server with a connection to each client, fixed binary messages.

Both sides prove knowledge of a shared key before any large message is read, and every wait has a deadline. Connections
are not encrypted: use them in a private network, or through a tunnel. The messages, with little-endian integers:

1. server → client: 32 random bytes.
2. client → server: number (4 bytes), public key (32), form of its words (16), 32 random bytes, proof (32: HMAC-SHA256
   of message 1 and the preceding fields). A form is the NumPy dtype string, padded with spaces (8), and the count (8).
3. server → client, if the proof is valid: form of the server's words (16), proof (32: HMAC-SHA256 of that form and the
   client's random bytes). A client with a different form is rejected.
4. server → client: round number (4, from 1), number of clients (4), then number and key of each client (36).
5. client → server: its masked words.
6. server → client: 0 (4), clients in the sum (4), and the sum; or message 4 again, without clients that dropped out.
"""

import asyncio
import hmac
import math
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lanner.errors import ConfigError, LannerError
from lanner.federated.secure_sum import Masker, Words, total_of

Address = tuple[str, int]
_NUMBER, _BYTES, _FORM = 4, 32, 16
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
    """Aggregates the clients' words."""

    def __init__(self, address: Address, authkey: bytes, like: Words, deadline_s: float = 600.0) -> None:
        """address: to listen on; port 0: any free port. like: words of the dtype and length that clients send.

        deadline_s: until all clients have connected, and for each message of a round.

        Raises:
            ConfigError: ``address`` cannot be listened on, or an argument is of the wrong type or out of range.
        """
        _check(authkey, like, deadline_s)
        try:
            self._socket = socket.create_server(address)
        except (OSError, OverflowError, TypeError) as error:
            raise ConfigError(f"address {address}: cannot listen there ({error}); give another") from None
        self.address: Address = self._socket.getsockname()
        self._authkey, self._like, self._deadline_s = authkey, like, deadline_s
        self.bytes_received = 0

    def total(self, clients: int) -> tuple[Words, int]:
        """The sum of the words of ``clients`` clients, and the number of clients included.

        Raises:
            ConfigError: ``clients`` is not a number of at least 2.
            RoundFailed: not all clients connected before the deadline, or fewer than two are left.
        """
        if not isinstance(clients, int) or not 2 <= clients <= _MAX_CLIENTS:
            raise ConfigError(f"clients must be a whole number from 2 to {_MAX_CLIENTS:,}, received {clients!r}")
        return asyncio.run(self._total(clients))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def _total(self, clients: int) -> tuple[Words, int]:
        members = dict[int, _Member]()
        complete, unauthenticated = asyncio.Event(), set[StreamWriter]()

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            if len(unauthenticated) < _MAX_UNAUTHENTICATED and len(members) < clients:
                unauthenticated.add(writer)
                try:
                    number, member = await self._handshake(reader, writer)
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
            return await self._rounds(members, clients)
        finally:
            for member in members.values():
                member.writer.close()

    async def _handshake(self, reader: StreamReader, writer: StreamWriter) -> tuple[int, _Member | None]:
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                nonce = secrets.token_bytes(_BYTES)
                writer.write(nonce)
                hello = await reader.readexactly(_NUMBER + 3 * _BYTES + _FORM)
                payload, proof = hello[:-_BYTES], hello[-_BYTES:]
                if not hmac.compare_digest(proof, _proof(self._authkey, nonce + payload)):
                    return 0, None
                form = _form_of(self._like)
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

    async def _rounds(self, members: Mapping[int, _Member], clients: int) -> tuple[Words, int]:
        left, number = dict(members), 0
        while len(left) >= 2:
            number += 1
            keys = b"".join(one.to_bytes(_NUMBER, "little") + member.key for one, member in sorted(left.items()))
            message = _head(number, len(left)) + keys
            received = await asyncio.gather(*(self._request_words(member, message) for member in left.values()))
            words = [one for one in received if one is not None]
            if len(words) == len(left):
                total = total_of(words)
                message = _head(0, len(left)) + total.tobytes()
                await asyncio.gather(*(self._send_sum(member, message) for member in left.values()))
                return total, len(left)
            left = {one: member for (one, member), came in zip(left.items(), received, strict=True) if came is not None}
        raise RoundFailed(f"only {len(left)} of {clients} clients are left; at least 2 are needed")

    async def _request_words(self, member: _Member, message: bytes) -> Words | None:
        """A client's words; None if they do not arrive in time."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
                content = await member.reader.readexactly(self._like.nbytes)
        except _CONNECTION_ERRORS:
            return None
        self.bytes_received += len(content)
        found: Words = np.frombuffer(content, self._like.dtype)
        return found

    async def _send_sum(self, member: _Member, message: bytes) -> None:
        """Send the sum; a client that has disconnected is still included in it."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
        except _CONNECTION_ERRORS:
            pass


def join(address: Address, authkey: bytes, number: int, words: Words, deadline_s: float = 3600.0) -> Words:
    """Join an aggregation with this client's words; returns the sum.

    number: unique number of this client, from 0 to 2^32 − 1.

    Raises:
        ConfigError: an argument is of the wrong type or out of range.
        RoundFailed: the server cannot be reached, has a different key, or closed the connection before answering.
    """
    _check(authkey, words, deadline_s)
    if not isinstance(number, int) or not 0 <= number < 1 << 8 * _NUMBER:
        raise ConfigError(f"number must be a whole number from 0 to {(1 << 8 * _NUMBER) - 1}, received {number!r}")
    try:
        return asyncio.run(asyncio.wait_for(_join(address, authkey, number, words), deadline_s))
    except (*_CONNECTION_ERRORS, OverflowError) as error:
        reason = str(error) or "it did not answer"
        if isinstance(error, EOFError):
            reason = f"it closed the connection: it has another key, or another client has the number {number}"
        raise RoundFailed(f"the server at {address[0]}:{address[1]} is gone or refused ({reason})") from None


async def _join(address: Address, authkey: bytes, number: int, words: Words) -> Words:
    masker = Masker(number)
    reader, writer = await asyncio.open_connection(*address)
    try:
        nonce = secrets.token_bytes(_BYTES)
        payload = number.to_bytes(_NUMBER, "little") + masker.public_key + _form_of(words) + nonce
        writer.write(payload + _proof(authkey, await reader.readexactly(_BYTES) + payload))
        form = await reader.readexactly(_FORM)
        if not hmac.compare_digest(await reader.readexactly(_BYTES), _proof(authkey, form + nonce)):
            raise OSError("it does not know the shared key")
        if form != _form_of(words):
            raise OSError(f"it sums {_describe(form)}, and this client has {_describe(_form_of(words))}")
        while True:
            head = await reader.readexactly(2 * _NUMBER)
            round_number, clients = (int.from_bytes(part, "little") for part in (head[:_NUMBER], head[_NUMBER:]))
            if not round_number:
                total: Words = np.frombuffer(await reader.readexactly(words.nbytes), words.dtype)
                return total
            if clients > _MAX_CLIENTS:
                raise OSError(f"it names {clients} clients")
            keys = _keys_of(await reader.readexactly(clients * (_NUMBER + _BYTES)))
            writer.write(masker.masked(words, keys, round_number).tobytes())
            await writer.drain()
    finally:
        writer.close()


def _check(authkey: bytes, words: Words, deadline_s: float) -> None:
    if not isinstance(authkey, bytes) or not authkey:
        raise ConfigError(f"authkey must be bytes that server and clients share, received {type(authkey).__name__}")
    if not isinstance(words, np.ndarray) or words.dtype not in (np.uint32, np.uint64) or words.ndim != 1:
        kind = f"{words.dtype} {list(words.shape)}" if isinstance(words, np.ndarray) else type(words).__name__
        raise ConfigError(
            f"words must be an array of uint32 or uint64, as FixedPoint.encoded gives it, received {kind}"
        )
    if not 0 < deadline_s < math.inf:
        raise ConfigError(f"deadline_s must be a positive number of seconds, received {deadline_s}")


def _form_of(words: Words) -> bytes:
    return words.dtype.str.encode().ljust(_FORM - 8) + words.size.to_bytes(8, "little")


def _describe(form: bytes) -> str:
    return f"{int.from_bytes(form[-8:], 'little')} words of type {form[:-8].decode(errors='replace').strip()}"


def _proof(authkey: bytes, message: bytes) -> bytes:
    return hmac.digest(authkey, message, "sha256")


def _head(round_number: int, clients: int) -> bytes:
    return round_number.to_bytes(_NUMBER, "little") + clients.to_bytes(_NUMBER, "little")


def _keys_of(entries: bytes) -> dict[int, bytes]:
    size = _NUMBER + _BYTES
    parts = (entries[at : at + size] for at in range(0, len(entries), size))
    return {int.from_bytes(part[:_NUMBER], "little"): part[_NUMBER:] for part in parts}
