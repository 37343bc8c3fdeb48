"""A server and clients as processes connected by sockets; one that dies, and one that does not belong."""

import hmac
import multiprocessing as mp
import socket
import threading

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.federated.secure_sum import FixedPoint, Masker
from lanner.federated.wire import RoundFailed, Server, _form_of, join

pytest.importorskip("cryptography", reason="cryptography is not installed")
KEY, LENGTH = b"shared", 1000
WHOLE = FixedPoint(1, 32)
START = mp.get_context("spawn")


def take_part(address, number, found):
    found.put((number, join(address, KEY, number, WHOLE.encoded(np.full(LENGTH, number))).view(np.int32).tolist()))


def leave(address):
    """Is let in and asked, and leaves."""
    with socket.create_connection(address) as connection:
        nonce, own = connection.recv(32, socket.MSG_WAITALL), bytes(32)
        told = (99).to_bytes(4, "little") + Masker(99).public_key + _form_of(WHOLE.encoded(np.zeros(LENGTH))) + own
        connection.sendall(told + hmac.digest(KEY, nonce + told, "sha256"))
        connection.recv(16 + 32 + 8 + 3 * 36, socket.MSG_WAITALL)


def summed(server, clients):
    result = {}
    thread = threading.Thread(target=lambda: result.update(found=server.total(clients)), daemon=True)
    thread.start()
    return thread, result


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), KEY, WHOLE.encoded(np.zeros(LENGTH)), deadline_s=30)
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


def test_strangers_are_not_let_in_and_hold_nobody_up(server):
    silent = [socket.create_connection(server.address) for _ in range(5)]
    thread, result = summed(server, 2)
    with pytest.raises(RoundFailed, match="gone or refused"):
        join(server.address, b"another key", 1, WHOLE.encoded(np.ones(LENGTH)))
    with socket.create_connection(server.address) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
    found = START.Queue()
    for number in (1, 2):
        START.Process(target=take_part, args=(server.address, number, found), daemon=True).start()
    assert {found.get(timeout=60)[0] for _ in range(2)} == {1, 2}
    thread.join(30)
    assert result["found"][1] == 2
    for one in silent:
        one.close()


def test_a_server_with_another_key_gets_no_words():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pretend():
            connection, _ = listening.accept()
            connection.sendall(bytes(32))
            got.append(connection.recv(116, socket.MSG_WAITALL))
            connection.sendall(bytes(16 + 32 + 8))
            got.append(connection.recv(1))

        got = []
        thread = threading.Thread(target=pretend, daemon=True)
        thread.start()
        with pytest.raises(RoundFailed, match="does not know the shared key"):
            join(listening.getsockname(), KEY, 1, WHOLE.encoded(np.ones(LENGTH)))
        thread.join(10)
    assert got[1] == b""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (np.zeros(LENGTH, np.uint64), "sums 1000 words of type <u4, and this client has 1000 words of type <u8"),
        (np.zeros(LENGTH + 1, np.uint32), "this client has 1001 words of type <u4"),
        (np.zeros(LENGTH - 1, np.uint32), "this client has 999 words"),
    ],
)
def test_a_client_with_words_of_another_form_is_not_in_the_sum(server, words, said):
    thread, result = summed(server, 2)
    with pytest.raises(RoundFailed, match=said):
        join(server.address, KEY, 7, words)
    found = START.Queue()
    for number in (1, 2):
        START.Process(target=take_part, args=(server.address, number, found), daemon=True).start()
    assert {tuple(set(found.get(timeout=60)[1])) for _ in range(2)} == {(3,)}
    thread.join(30)
    assert result["found"][1] == 2


def test_clients_that_do_not_come_end_the_wait():
    alone = Server(("127.0.0.1", 0), KEY, WHOLE.encoded(np.zeros(LENGTH)), deadline_s=0.3)
    with pytest.raises(RoundFailed, match="only 0 of 2 clients connected within"):
        alone.total(2)
    alone.close()


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(RoundFailed, match=r"127\.0\.0\.1:9 is gone or refused"):
        join(("127.0.0.1", 9), KEY, 1, WHOLE.encoded(np.ones(3)))


def test_what_is_no_number_or_address_is_refused_in_one_line():
    words = WHOLE.encoded(np.ones(3))
    for number in (-1, 2**32, 1.5):
        with pytest.raises(ConfigError, match="number must be a whole number from 0 to 4294967295"):
            join(("127.0.0.1", 9), KEY, number, words)
    with pytest.raises(ConfigError, match="cannot listen there"):
        Server(("127.0.0.1", 70_000), KEY, words)
    with pytest.raises(RoundFailed, match="is gone or refused"):
        join(("127.0.0.1", 99_999), KEY, 1, words)
    for key, sent, deadline_s, said in (
        ("text", words, 1.0, "authkey must be bytes"),
        (KEY, np.ones(3), 1.0, "words must be an array of uint32 or uint64"),
        (KEY, [1], 1.0, "received list"),
        (KEY, words, float("nan"), "deadline_s must be a positive number"),
    ):
        with pytest.raises(ConfigError, match=said):
            Server(("127.0.0.1", 0), key, sent, deadline_s)
        with pytest.raises(ConfigError, match=said):
            join(("127.0.0.1", 9), key, 1, sent, deadline_s)


def test_one_client_is_too_few_to_be_asked_for(server):
    with pytest.raises(ConfigError, match="clients must be a whole number from 2"):
        server.total(1)
