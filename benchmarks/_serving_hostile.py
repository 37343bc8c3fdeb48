"""Hostile clients, each kind for some seconds: ``python -m benchmarks._serving_hostile KIND PORT SECONDS``.

Clients that are disconnected connect again. None of them has a valid key.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable

_CONNECTIONS = 200
_PIPELINED_BYTES = 100 << 20
_WRONG_KEYS = 10_000
_BODY = b'{"history": ["1"], "k": 10}'
_HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
_REQUEST = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body with a declared length, sent byte by byte."""
    writer.write(_HEAD + b"content-length: 1000\r\n\r\n")
    while not reader.at_eof():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.5)


async def dripped_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Request headers sent byte by byte."""
    for byte in _HEAD * 1000:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0.5)
        if reader.at_eof():
            return


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers that never end."""
    writer.write(_HEAD)
    while not reader.at_eof():
        writer.write(b"x-more: " + b"a" * 1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def pipelined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pipelined requests whose answers are never read."""
    block = _REQUEST * 100
    for _ in range(_PIPELINED_BYTES // (4 * len(block))):
        writer.write(block)
        await writer.drain()
    await asyncio.sleep(3600)


async def wrong_key(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Complete requests with invalid keys, at a rate of 10,000 in half a minute."""
    for number in range(_WRONG_KEYS):
        key = f"authorization: Bearer wrong-{number}\r\ncontent-length: {len(_BODY)}\r\n\r\n".encode()
        writer.write(_HEAD + key + _BODY)
        await writer.drain()
        if not await reader.read(65536):
            return
        await asyncio.sleep(4 * 30 / _WRONG_KEYS)


ATTACKS: dict[str, tuple[Attack, int]] = {
    "slow_bodies": (slow_body, _CONNECTIONS),
    "dripped_heads": (dripped_head, _CONNECTIONS),
    "endless_heads": (endless_head, 8),
    "pipelined": (pipelined, 4),
    "wrong_keys": (wrong_key, 4),
}
"""By name: what a connection does, and how many there are."""


async def _again_and_again(attack: Attack, port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            # Answers must stay unread, so the library must not read them either.
            if attack is pipelined:
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                await attack(reader, writer)
            writer.close()
        await asyncio.sleep(0.1)


async def run(kind: str, port: int, seconds: float) -> None:
    """Attack for this long."""
    attack, connections = ATTACKS[kind]
    tasks = [asyncio.create_task(_again_and_again(attack, port)) for _ in range(connections)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
