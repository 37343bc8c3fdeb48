"""What a server and its engine processes say to each other: frames of msgpack on a socket, arrays as their bytes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from lanner.models.request_form import ItemRows
from lanner.serving.engine import Answer

_LENGTH_BYTES = 4
FILE_FOLLOWS = b"\n"
"""The first byte to a process; the descriptor of the file of its server's shelf comes with it."""


class Open(Struct, tag=True, array_like=True):
    """Open these variants of a bundle's ladder, best first, and time batches of plain requests of these histories.

    most_new_items: for which there is room on the shelf. histories: each int64 rows.
    """

    bundle: str
    variants: tuple[str, ...]
    candidates: int
    most_new_items: int
    histories: list[bytes]


class Add(Struct, tag=True, array_like=True):
    """Items take the next rows of every engine; arrays as ``ItemRows`` has them, float32, one item after another."""

    number: int
    source: bytes
    target: bytes
    bias: bytes
    half: bytes | None


class Remove(Struct, tag=True, array_like=True):
    """Items are found no more. rows: int64."""

    rows: bytes


class Fold(Struct, tag=True, array_like=True):
    """The index at a place among those of the engines was built anew and is to be taken from a folder."""

    place: int
    folder: str


class Ask(Struct, tag=True, array_like=True):
    """Plain requests, answered together by one variant. rows: int64 of all histories, one after another."""

    variant: str
    rows: bytes
    lengths: list[int]
    ks: list[int]
    exclude_seen: list[bool]


class Opened(Struct, tag=True, array_like=True):
    """times: variant → batch size → (p50, p99) in milliseconds."""

    times: dict[str, dict[int, tuple[float, float]]]


class Changed(Struct, tag=True, array_like=True):
    """What ``Add``, ``Remove`` or ``Fold`` asked for is done."""


class Answered(Struct, tag=True, array_like=True):
    """Answers to ``Ask``, one after another. items: int64. scores: float32."""

    lengths: list[int]
    items: bytes
    scores: bytes


class Failed(Struct, tag=True, array_like=True):
    """What was asked for could not be done; nothing has changed."""

    problem: str


Told = Open | Add | Remove | Fold | Ask
Reply = Opened | Changed | Answered | Failed
_encoder = msgspec.msgpack.Encoder()
_told, _reply = msgspec.msgpack.Decoder(Told), msgspec.msgpack.Decoder(Reply)


def framed(message: Told | Reply) -> bytes:
    """A message as it goes over the socket."""
    content = _encoder.encode(message)
    return len(content).to_bytes(_LENGTH_BYTES, "little") + content


class Frames:
    """Cuts what comes from a socket into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def take(self, data: bytes | memoryview) -> list[bytes]:
        """The messages that are whole now that ``data`` has come, too."""
        self._held += data
        found, place = [], 0
        while len(self._held) - place >= _LENGTH_BYTES:
            start = place + _LENGTH_BYTES
            end = start + int.from_bytes(self._held[place:start], "little")
            if end > len(self._held):
                break
            found.append(bytes(self._held[start:end]))
            place = end
        del self._held[:place]
        return found


def read_told(content: bytes) -> Told:
    """What the server said. Raises ``msgspec.DecodeError``."""
    message: Told = _told.decode(content)
    return message


def read_reply(content: bytes) -> Reply:
    """What the engine process answered. Raises ``msgspec.DecodeError``."""
    message: Reply = _reply.decode(content)
    return message


def add_of(rows: ItemRows) -> Add:
    """New items as a message."""
    half = None if rows.half_NH is None else _floats(rows.half_NH)
    return Add(len(rows.bias_N), _floats(rows.source_ND), _floats(rows.target_ND), _floats(rows.bias_N), half)


def rows_of(message: Add) -> ItemRows:
    """New items of a message."""
    number = message.number
    source, target = (np.frombuffer(one, np.float32).reshape(number, -1) for one in (message.source, message.target))
    half = None if message.half is None else np.frombuffer(message.half, np.float32).reshape(number, -1)
    return ItemRows(source, target, np.frombuffer(message.bias, np.float32), half)


def ask_of(
    variant: str, histories: Sequence[NDArray[np.int64]], ks: Sequence[int], exclude_seen: Sequence[bool]
) -> Ask:
    """Plain requests as a message."""
    lengths = [len(one) for one in histories]
    return Ask(variant, np.concatenate(histories).tobytes(), lengths, list(ks), list(exclude_seen))


def histories_of(message: Ask) -> list[NDArray[np.int64]]:
    """The histories of a message."""
    return _parts(np.frombuffer(message.rows, np.int64), message.lengths)


def answered_of(answers: Sequence[Answer]) -> Answered:
    """Answers as a message."""
    items, scores = (b"".join(arrays) for arrays in zip(*map(_bytes_of, answers), strict=True))
    return Answered([len(one.items) for one in answers], items, scores)


def answers_of(message: Answered) -> list[Answer]:
    """The answers of a message."""
    items = _parts(np.frombuffer(message.items, np.int64), message.lengths)
    scores = _parts(np.frombuffer(message.scores, np.float32), message.lengths)
    return [Answer(*one) for one in zip(items, scores, strict=True)]


def _parts(array: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
    found, start = [], 0
    for length in lengths:
        found.append(array[start : start + length])
        start += length
    return found


def _bytes_of(answer: Answer) -> tuple[bytes, bytes]:
    return answer.items.astype(np.int64, copy=False).tobytes(), answer.scores.astype(np.float32, copy=False).tobytes()


def _floats(array: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()
