"""A round of secure aggregation between processes: one server, a connection to each client, bytes of a fixed form.

Connections are the standard library's, authenticated by a shared key; nothing is unpickled, and messages are bounded.
They are not encrypted, and one that connects and says nothing holds up the others: use them in a private network.

1. client → server: its number (4 bytes, little-endian) and its public key (32 bytes).
2. server → client: the round's number (4 bytes, from 1), then number and key of each client of the round (36 each).
3. client → server: its masked words (4 bytes each).
4. server → client: 4 zero bytes and the sum, if the round is complete; else 2 again, without those who left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from time import monotonic

import numpy as np

from lanner.errors import LannerError
from lanner.federated.secure_sum import Masker, Words, total_of

Address = tuple[str, int]
_NUMBER, _KEY = 4, 32
_MOST_CLIENTS = 100_000


class RoundFailed(LannerError):
    """A round cannot be completed: fewer than two clients are left, or the other side is gone."""


@dataclass
class Server:
    """Collects sums. address: where it listens; port 0: any that is free. length: of the vectors, in words."""

    address: Address
    authkey: bytes
    length: int
    deadline_s: float = 600.0
    bytes_received: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._listener = Listener(self.address, authkey=self.authkey)
        self.address = self._listener.address

    def total(self, clients: int) -> tuple[Words, int]:
        """The sum of what ``clients`` clients send, and how many were in it.

        Raises:
            RoundFailed: fewer than two clients are left.
        """
        connections, keys = dict[int, Connection](), dict[int, bytes]()
        while len(connections) < clients:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, OSError, EOFError):
                continue
            try:
                hello = connection.recv_bytes(_NUMBER + _KEY)
                number = int.from_bytes(hello[:_NUMBER], "little")
                if len(hello) != _NUMBER + _KEY or number in connections:
                    raise ValueError
            except (OSError, EOFError, ValueError):
                connection.close()
                continue
            connections[number], keys[number] = connection, hello[_NUMBER:]
        for round_number in range(1, clients):
            received = self._round(round_number, connections, keys)
            if len(received) == len(keys):
                total = total_of(list(received.values()))
                for connection in connections.values():
                    _send(connection, bytes(_NUMBER) + total.tobytes())
                    connection.close()
                return total, len(received)
            for gone in set(keys) - set(received):
                connections.pop(gone).close()
                del keys[gone]
            if len(keys) < 2:
                break
        raise RoundFailed(f"only {len(keys)} of {clients} clients are left; at least 2 are needed")

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _round(self, number: int, connections: Mapping[int, Connection], keys: Mapping[int, bytes]) -> dict[int, Words]:
        """The words of those who sent them in time."""
        message = number.to_bytes(_NUMBER, "little")
        message += b"".join(one.to_bytes(_NUMBER, "little") + key for one, key in sorted(keys.items()))
        asked = {connections[one]: one for one in keys if _send(connections[one], message)}
        received, deadline = dict[int, Words](), monotonic() + self.deadline_s
        while asked and (left := deadline - monotonic()) > 0:
            for connection in wait(list(asked), left):
                assert isinstance(connection, Connection)
                client = asked.pop(connection)
                try:
                    content = connection.recv_bytes(4 * self.length)
                except (OSError, EOFError):
                    continue
                if len(content) == 4 * self.length:
                    received[client] = np.frombuffer(content, np.uint32)
                    self.bytes_received += len(content)
        return received


def join(address: Address, authkey: bytes, number: int, words: Words) -> Words:
    """Take part in a sum with one's own words; returns the sum.

    Raises:
        RoundFailed: the server cannot be reached, or ended the sum without an answer.
    """
    masker = Masker(number)
    try:
        with Client(address, authkey=authkey) as connection:
            connection.send_bytes(number.to_bytes(_NUMBER, "little") + masker.public_key)
            while True:
                message = connection.recv_bytes(_NUMBER + max(4 * len(words), _MOST_CLIENTS * (_NUMBER + _KEY)))
                round_number = int.from_bytes(message[:_NUMBER], "little")
                if not round_number:
                    return np.frombuffer(message, np.uint32, offset=_NUMBER)
                connection.send_bytes(masker.masked(words, _keys_of(message), round_number).tobytes())
    except (OSError, EOFError) as error:
        raise RoundFailed(f"the server at {address[0]}:{address[1]} is gone ({error})") from None


def _keys_of(message: bytes) -> dict[int, bytes]:
    return {
        int.from_bytes(message[at : at + _NUMBER], "little"): message[at + _NUMBER : at + _NUMBER + _KEY]
        for at in range(_NUMBER, len(message), _NUMBER + _KEY)
    }


def _send(connection: Connection, message: bytes) -> bool:
    """Whether it could be sent."""
    try:
        connection.send_bytes(message)
    except OSError:
        return False
    return True
