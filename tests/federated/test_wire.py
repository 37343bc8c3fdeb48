"""A server and clients as processes, with sockets between them; one that dies, and one that does not belong."""

import multiprocessing as mp
import socket
import threading

import numpy as np
import pytest

from lanner.federated.secure_sum import encoded
from lanner.federated.wire import RoundFailed, Server, join

pytest.importorskip("cryptography", reason="cryptography is not installed")
KEY, LENGTH = b"shared", 1000
START = mp.get_context("spawn")


def take_part(address, number, found):
    found.put((number, join(address, KEY, number, encoded(np.full(LENGTH, number), 1.0)).view(np.int32).tolist()))


def leave(address):
    from multiprocessing.connection import Client

    from lanner.federated.secure_sum import Masker

    with Client(address, authkey=KEY) as connection:
        connection.send_bytes((99).to_bytes(4, "little") + Masker(99).public_key)
        connection.recv_bytes()  # is asked, and leaves


def summed(server, clients):
    result = {}
    thread = threading.Thread(target=lambda: result.update(found=server.total(clients)), daemon=True)
    thread.start()
    return thread, result


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), KEY, LENGTH, deadline_s=30)
    yield made
    made.close()


def test_three_processes_learn_the_sum_of_all(server):
    thread, result = summed(server, 3)
    found = START.Queue()
    clients = [START.Process(target=take_part, args=(server.address, number, found)) for number in (1, 2, 5)]
    for one in clients:
        one.start()
    answers = dict(found.get(timeout=60) for _ in clients)
    thread.join(30)
    total, members = result["found"]
    assert members == 3
    assert set(total.view(np.int32).tolist()) == {8}
    assert all(set(answer) == {8} for answer in answers.values())
    assert server.bytes_received == 3 * 4 * LENGTH


def test_the_round_is_repeated_without_one_that_left(server):
    thread, result = summed(server, 3)
    found = START.Queue()
    clients = [START.Process(target=take_part, args=(server.address, number, found)) for number in (1, 2)]
    clients.append(START.Process(target=leave, args=(server.address,)))
    for one in clients:
        one.start()
    answers = dict(found.get(timeout=60) for _ in range(2))
    thread.join(30)
    total, members = result["found"]
    assert members == 2
    assert set(total.view(np.int32).tolist()) == {3}
    assert all(set(answer) == {3} for answer in answers.values())


def test_a_stranger_is_not_let_in(server):
    from multiprocessing import AuthenticationError

    thread, result = summed(server, 2)
    with pytest.raises((AuthenticationError, RoundFailed)):
        join(server.address, b"another key", 1, encoded(np.ones(LENGTH), 1.0))
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
    found = START.Queue()
    for number in (1, 2):
        START.Process(target=take_part, args=(server.address, number, found), daemon=True).start()
    assert {found.get(timeout=60)[0] for _ in range(2)} == {1, 2}
    thread.join(30)
    assert result["found"][1] == 2


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(RoundFailed, match=r"127\.0\.0\.1:9 is gone"):
        join(("127.0.0.1", 9), KEY, 1, encoded(np.ones(3), 1.0))
