"""A round of secure aggregation between processes: one server, a connection to each client, bytes of a fixed form.

Both sides prove that they know a shared key before anything of size is read, and whatever is waited for has a deadline.
Connections are not encrypted: use them in a private network, or through a tunnel. In order, integers little-endian:

1. server → client: 32 random bytes.
2. client → server: number (4 bytes), public key (32), form of its words (16), 32 random bytes, proof (32: HMAC-SHA256
   of 1 and all before). A form is the words' type as NumPy spells it, padded with spaces (8), and their count (8).
3. server → client, if it knows the key: form of the server's words (16), proof (32: HMAC-SHA256 of that form and the
   client's random bytes). One whose form is another is not let in.
4. server → client: the round's number (4, from 1), clients (4), then number and key of each (36).
5. client → server: its masked words.
6. server → client: 0 (4), clients in the sum (4), and the sum; or 4 again, without those who left.
"""

import asyncio
import hmac
import secrets
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lanner.errors import LannerError
from lanner.federated.secure_sum import Masker, Words, total_of

Address = tuple[str, int]
_NUMBER, _BYTES, _FORM = 4, 32, 16
_HELLO_S = 10.0
_MOST_STRANGERS, _MOST_CLIENTS = 256, 100_000
_GONE = (OSError, EOFError, TimeoutError)


class RoundFailed(LannerError):
    """A round cannot be completed: fewer than two clients are left, or the other side is gone."""


@dataclass(frozen=True)
class _Member:
    key: bytes
    reader: StreamReader
    writer: StreamWriter


class Server:
    """Collects sums."""

    def __init__(self, address: Address, authkey: bytes, like: Words, deadline_s: float = 600.0) -> None:
        """address: where it listens; port 0: any that is free. like: words of the form and length that clients send.

        deadline_s: until all have come, and for the words of a round.
        """
        self._socket = socket.create_server(address)
        self.address: Address = self._socket.getsockname()
        self._authkey, self._like, self._deadline_s = authkey, like, deadline_s
        self.bytes_received = 0

    def total(self, clients: int) -> tuple[Words, int]:
        """The sum of what ``clients`` clients send, and how many were in it.

        Raises:
            RoundFailed: fewer have come before the deadline, or fewer than two are left.
        """
        return asyncio.run(self._total(clients))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def _total(self, clients: int) -> tuple[Words, int]:
        members = dict[int, _Member]()
        complete, strangers = asyncio.Event(), set[StreamWriter]()

        async def welcome(reader: StreamReader, writer: StreamWriter) -> None:
            if len(strangers) < _MOST_STRANGERS and len(members) < clients:
                strangers.add(writer)
                number, member = await self._admitted(reader, writer)
                strangers.discard(writer)
                if member is not None and number not in members and len(members) < clients:
                    members[number] = member
                    if len(members) == clients:
                        complete.set()
                    return
            writer.close()

        async with await asyncio.start_server(welcome, sock=self._socket.dup()):
            try:
                async with asyncio.timeout(self._deadline_s):
                    await complete.wait()
            except TimeoutError:
                came = len(members)
                raise RoundFailed(f"only {came} of {clients} clients came within {self._deadline_s:g} s") from None
        try:
            return await self._rounds(members, clients)
        finally:
            for member in members.values():
                member.writer.close()

    async def _admitted(self, reader: StreamReader, writer: StreamWriter) -> tuple[int, _Member | None]:
        try:
            async with asyncio.timeout(_HELLO_S):
                nonce = secrets.token_bytes(_BYTES)
                writer.write(nonce)
                hello = await reader.readexactly(_NUMBER + 3 * _BYTES + _FORM)
                told, proof = hello[:-_BYTES], hello[-_BYTES:]
                if not hmac.compare_digest(proof, _proof(self._authkey, nonce + told)):
                    return 0, None
                form = _form_of(self._like)
                writer.write(form + _proof(self._authkey, form + told[-_BYTES:]))
                await writer.drain()
        except _GONE:
            return 0, None
        number, key, theirs = told[:_NUMBER], told[_NUMBER : _NUMBER + _BYTES], told[-_BYTES - _FORM : -_BYTES]
        return int.from_bytes(number, "little"), _Member(key, reader, writer) if theirs == form else None

    async def _rounds(self, members: Mapping[int, _Member], clients: int) -> tuple[Words, int]:
        left, number = dict(members), 0
        while len(left) >= 2:
            number += 1
            keys = b"".join(one.to_bytes(_NUMBER, "little") + member.key for one, member in sorted(left.items()))
            message = _head(number, len(left)) + keys
            received = await asyncio.gather(*(self._asked(member, message) for member in left.values()))
            words = [one for one in received if one is not None]
            if len(words) == len(left):
                total = total_of(words)
                message = _head(0, len(left)) + total.tobytes()
                await asyncio.gather(*(self._told(member, message) for member in left.values()))
                return total, len(left)
            left = {one: member for (one, member), came in zip(left.items(), received, strict=True) if came is not None}
        raise RoundFailed(f"only {len(left)} of {clients} clients are left; at least 2 are needed")

    async def _asked(self, member: _Member, message: bytes) -> Words | None:
        """The words of a client; None where they do not come in time."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
                content = await member.reader.readexactly(self._like.nbytes)
        except _GONE:
            return None
        self.bytes_received += len(content)
        found: Words = np.frombuffer(content, self._like.dtype)
        return found

    async def _told(self, member: _Member, message: bytes) -> None:
        """A client that is gone by then has given its part."""
        try:
            async with asyncio.timeout(self._deadline_s):
                member.writer.write(message)
                await member.writer.drain()
        except _GONE:
            pass


def join(address: Address, authkey: bytes, number: int, words: Words, deadline_s: float = 3600.0) -> Words:
    """Take part in a sum with one's own words; returns the sum.

    Raises:
        RoundFailed: the server cannot be reached, knows another key, or ended the sum without an answer.
    """
    try:
        return asyncio.run(asyncio.wait_for(_join(address, authkey, number, words), deadline_s))
    except _GONE as error:
        reason = str(error) or "it did not answer"
        raise RoundFailed(f"the server at {address[0]}:{address[1]} is gone or refused ({reason})") from None


async def _join(address: Address, authkey: bytes, number: int, words: Words) -> Words:
    masker = Masker(number)
    reader, writer = await asyncio.open_connection(*address)
    try:
        own = secrets.token_bytes(_BYTES)
        told = number.to_bytes(_NUMBER, "little") + masker.public_key + _form_of(words) + own
        writer.write(told + _proof(authkey, await reader.readexactly(_BYTES) + told))
        form = await reader.readexactly(_FORM)
        if not hmac.compare_digest(await reader.readexactly(_BYTES), _proof(authkey, form + own)):
            raise OSError("it does not know the shared key")
        if form != _form_of(words):
            raise OSError(f"it sums {_spelt(form)}, and this client has {_spelt(_form_of(words))}")
        while True:
            head = await reader.readexactly(2 * _NUMBER)
            round_number, clients = (int.from_bytes(part, "little") for part in (head[:_NUMBER], head[_NUMBER:]))
            if not round_number:
                total: Words = np.frombuffer(await reader.readexactly(words.nbytes), words.dtype)
                return total
            if clients > _MOST_CLIENTS:
                raise OSError(f"it names {clients} clients")
            keys = _keys_of(await reader.readexactly(clients * (_NUMBER + _BYTES)))
            writer.write(masker.masked(words, keys, round_number).tobytes())
            await writer.drain()
    finally:
        writer.close()


def _form_of(words: Words) -> bytes:
    return words.dtype.str.encode().ljust(_FORM - 8) + words.size.to_bytes(8, "little")


def _spelt(form: bytes) -> str:
    return f"{int.from_bytes(form[-8:], 'little')} words of type {form[:-8].decode(errors='replace').strip()}"


def _proof(authkey: bytes, told: bytes) -> bytes:
    return hmac.digest(authkey, told, "sha256")


def _head(round_number: int, clients: int) -> bytes:
    return round_number.to_bytes(_NUMBER, "little") + clients.to_bytes(_NUMBER, "little")


def _keys_of(entries: bytes) -> dict[int, bytes]:
    size = _NUMBER + _BYTES
    parts = (entries[at : at + size] for at in range(0, len(entries), size))
    return {int.from_bytes(part[:_NUMBER], "little"): part[_NUMBER:] for part in parts}
