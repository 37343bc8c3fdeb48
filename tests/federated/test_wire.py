"""A server and clients as processes connected by sockets; one that dies, and one that does not belong."""

import hmac
import multiprocessing as mp
import socket
import threading

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.federated.secure_sum import FixedPoint, Masker
from lanner.federated.wire import RoundFailed, Server, _described, join

pytest.importorskip("cryptography", reason="cryptography is not installed")
KEY, LENGTH = b"shared", 1000
WHOLE = FixedPoint(1, ((LENGTH - 300, 13), (300, 5)))
START = mp.get_context("spawn")


def take_part(address, number, found):
    found.put((number, join(address, KEY, number, np.full(LENGTH, number), WHOLE, min_clients=2).tolist()))


def leave(address):
    """Is let in and asked, and leaves."""
    with socket.create_connection(address) as connection:
        nonce, own = connection.recv(32, socket.MSG_WAITALL), bytes(32)
        told = (99).to_bytes(4, "little") + Masker(99).public_key + _described(WHOLE) + own
        connection.sendall(told + hmac.digest(KEY, nonce + told, "sha256"))
        connection.recv(48 + 32 + 8 + 3 * 36, socket.MSG_WAITALL)


def summed(server, clients):
    result = {}
    thread = threading.Thread(target=lambda: result.update(found=server.total(clients, WHOLE)), daemon=True)
    thread.start()
    return thread, result


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), KEY, deadline_s=30)
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
    assert set(total.tolist()) == {8}
    assert all(set(answer) == {8} for answer in answers.values())
    assert server.bytes_received == server.bytes_sent == 3 * (-(-700 * 13 // 8) + -(-300 * 5 // 8))


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
    assert set(total.tolist()) == {3}
    assert all(set(answer) == {3} for answer in answers.values())


def test_strangers_are_not_let_in_and_hold_nobody_up(server):
    silent = [socket.create_connection(server.address) for _ in range(5)]
    thread, result = summed(server, 2)
    with pytest.raises(RoundFailed, match="gone or refused"):
        join(server.address, b"another key", 1, np.ones(LENGTH), WHOLE)
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
            got.append(connection.recv(148, socket.MSG_WAITALL))
            connection.sendall(bytes(48 + 32 + 8))
            got.append(connection.recv(1))

        got = []
        thread = threading.Thread(target=pretend, daemon=True)
        thread.start()
        with pytest.raises(RoundFailed, match="does not know the shared key"):
            join(listening.getsockname(), KEY, 1, np.ones(LENGTH), WHOLE)
        thread.join(10)
    assert got[1] == b""


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (FixedPoint(1, ((LENGTH, 64),)), "sums 1000 words in 1326 bytes, .*, and this client has 1000 words in 8000"),
        (FixedPoint(1, ((LENGTH + 1, 32),)), "this client has 1001 words in 4004 bytes"),
        (FixedPoint(2, WHOLE.runs), "this client has 1000 words in 1326 bytes, encoding [0-9a-f]{8}"),
        (FixedPoint(1, WHOLE.runs, signed=False), "this client has 1000 words in 1326 bytes"),
    ],
)
def test_a_client_with_words_of_another_form_is_not_in_the_sum(server, form, said):
    thread, result = summed(server, 2)
    with pytest.raises(RoundFailed, match=said):
        join(server.address, KEY, 7, np.zeros(form.size), form)
    found = START.Queue()
    for number in (1, 2):
        START.Process(target=take_part, args=(server.address, number, found), daemon=True).start()
    assert {tuple(set(found.get(timeout=60)[1])) for _ in range(2)} == {(3,)}
    thread.join(30)
    assert result["found"][1] == 2


def test_clients_that_do_not_come_end_the_wait():
    alone = Server(("127.0.0.1", 0), KEY, deadline_s=0.3)
    with pytest.raises(RoundFailed, match="only 0 of 2 clients connected within"):
        alone.total(2, WHOLE)
    alone.close()


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(RoundFailed, match=r"127\.0\.0\.1:9 is gone or refused"):
        join(("127.0.0.1", 9), KEY, 1, np.ones(LENGTH), WHOLE)


def test_what_is_no_number_or_address_is_refused_in_one_line():
    values, form = np.ones(3), FixedPoint(1, ((3, 8),))
    for number in (-1, 2**32, 1.5):
        with pytest.raises(ConfigError, match="number must be a whole number from 0 to 4294967295"):
            join(("127.0.0.1", 9), KEY, number, values, form)
    with pytest.raises(ConfigError, match="cannot listen there"):
        Server(("127.0.0.1", 70_000), KEY)
    with pytest.raises(RoundFailed, match="is gone or refused"):
        join(("127.0.0.1", 99_999), KEY, 1, values, form)
    with pytest.raises(ConfigError, match="the sum has 3 values"):
        join(("127.0.0.1", 9), KEY, 1, np.ones(4), form)
    for min_clients in (1, 2.5):
        with pytest.raises(ConfigError, match="min_clients must be a whole number of at least 2"):
            join(("127.0.0.1", 9), KEY, 1, values, form, min_clients=min_clients)
    for key, deadline_s, said in (
        ("text", 1.0, "authkey must be bytes"),
        (KEY, float("nan"), "deadline_s must be a positive number"),
    ):
        with pytest.raises(ConfigError, match=said):
            Server(("127.0.0.1", 0), key, deadline_s)
        with pytest.raises(ConfigError, match=said):
            join(("127.0.0.1", 9), key, 1, values, form, deadline_s=deadline_s)


def test_one_client_is_too_few_to_be_asked_for(server):
    with pytest.raises(ConfigError, match="clients must be a whole number from 2"):
        server.total(1, WHOLE)


def test_clients_send_nothing_to_a_sum_over_too_few(server):
    failed = dict[int, str]()

    def demanding(number):
        with pytest.raises(RoundFailed) as refused:
            join(server.address, KEY, number, np.ones(LENGTH), WHOLE)
        failed[number] = str(refused.value)

    threads = [threading.Thread(target=demanding, args=(number,), daemon=True) for number in (1, 2)]
    for one in threads:
        one.start()
    with pytest.raises(RoundFailed, match="only 0 of 2 clients are left"):
        server.total(2, WHOLE)
    for one in threads:
        one.join(30)
    assert set(failed) == {1, 2}
    assert all(
        "sums 2 clients, this client demands at least 3; nothing was sent to this sum" in one for one in failed.values()
    )
    assert server.bytes_received == 0


def test_sums_follow_each_other_on_one_server(server):
    forms = [WHOLE, FixedPoint(1, ((5, 9),), signed=False)]
    answers = list[list[float]]()

    def member(number):
        for form in forms:
            answers.append(join(server.address, KEY, number, np.full(form.size, number), form).tolist())

    threads = [threading.Thread(target=member, args=(number,), daemon=True) for number in (1, 2, 3)]
    for one in threads:
        one.start()
    for form in forms:
        total, clients = server.total(3, form)
        assert (set(total.tolist()), clients) == ({6}, 3)
    for one in threads:
        one.join(30)
    assert sorted(map(len, answers)) == [5, 5, 5, LENGTH, LENGTH, LENGTH]
    assert all(set(one) == {6} for one in answers)
