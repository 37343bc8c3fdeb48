"""The board protocol: exact results over TCP and a serial line, and one clear error per fault."""

import logging
import time
from dataclasses import replace

import numpy as np
import pytest
from small_models import extreme_contract, extreme_requests, histories, model_of

pytest.importorskip("amaranth", reason="a board's cycles are those of the hardware: pip install 'lanner[fpga]'")

from simulated_board import SimulatedBoard, busy, disturbed, late, refused, silent, truncated

from lanner.accelerators import host
from lanner.accelerators.backend import Backend, open_backend
from lanner.accelerators.build import emulated
from lanner.accelerators.contract import Contract, requests_of
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.host import Board
from lanner.accelerators.reference import answer
from lanner.errors import AcceleratorError, ConfigError
from lanner.inference.ranker import Asked

K = 10
CONTRACT = extreme_contract(60, 16, 18)
REQUESTS = extreme_requests(CONTRACT, K)
SIZES = emulated(CONTRACT, K)
FRAME = host.frame
ASKED = [Asked(np.array([3, 5]), np.array([0.5, 0.5], np.float32), np.array([3, 5]), K)]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Attempts to connect follow at once."""
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.05)


@pytest.fixture
def board():
    with SimulatedBoard(SIZES) as one:
        yield one


def assert_exact(contract, requests, found):
    for timed, request in zip(found, requests, strict=True):
        wanted = answer(contract, request)
        assert timed.answer.rows.tolist() == wanted.rows.tolist()
        assert timed.answer.scores.tolist() == wanted.scores.tolist()


def wait_until_connected(opened, request=REQUESTS[0]):
    ends = time.monotonic() + 10
    while True:
        try:
            return opened.answer([request])
        except AcceleratorError:
            assert time.monotonic() < ends
            time.sleep(0.02)


@pytest.mark.parametrize("serial", [False, True], ids=["tcp", "serial"])
def test_a_board_answers_bit_for_bit_with_its_cycles(serial):
    with SimulatedBoard(SIZES, serial=serial) as board:
        opened = Board(board.place, CONTRACT)
        found = opened.answer(REQUESTS)
        assert_exact(CONTRACT, REQUESTS, found)
        assert [one.cycles for one in found] == [Emulator(CONTRACT, SIZES).cycles(one) for one in REQUESTS]
        assert opened.longest_list == K
        opened.close()


@pytest.mark.parametrize("kind", [{}, {"tied": True}, {"sparse": True}], ids=["two tables", "tied", "item to item"])
def test_words_are_all_that_a_board_needs(kind):
    model, users = model_of(120, 16, **kind), histories(20, 120, 30)
    contract = Contract.of(model, users)
    requests = requests_of(contract, model, users, K)
    with SimulatedBoard(emulated(contract, K)) as board:
        opened = Board(board.place, contract)
        assert_exact(contract, requests, opened.answer(requests))
        opened.close()


def test_tables_are_loaded_once_and_a_second_host_is_told_busy(board):
    first = Board(board.place, CONTRACT)
    loads = board.loads
    second = Board(board.place, CONTRACT)
    with pytest.raises(AcceleratorError, match="BUSY"):
        second.answer(REQUESTS[:1])
    first.close()
    wait_until_connected(second)
    assert board.loads == loads == 2  # the second found the contract there; source and target are one table
    second.close()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (truncated, "the stream ended"),
        (disturbed, "wrong checksum"),
        (silent, "no answer in time"),
        (busy, "the board answered BUSY"),
        (late, "an answer to frame"),
    ],
)
def test_a_fault_is_one_error_and_the_board_is_used_again(board, fault, complaint, monkeypatch):
    monkeypatch.setattr(host, "RETRY_SECONDS", 1.0)  # the next request comes before the next attempt to connect
    opened = Board(board.place, CONTRACT)
    opened.answer(REQUESTS[:1])
    board.fault = fault
    with pytest.raises(AcceleratorError, match=complaint) as raised:
        opened.answer(REQUESTS[:1])
    assert "\n" not in str(raised.value)
    board.fault = None
    begun = time.perf_counter()
    with pytest.raises(AcceleratorError, match=f"not connected.*{complaint}"):
        opened.answer(REQUESTS[:1])
    assert time.perf_counter() - begun < 0.5  # nobody waits for a board that is lost
    assert_exact(CONTRACT, REQUESTS[:1], wait_until_connected(opened))
    opened.close()


def test_a_request_that_the_board_refuses_does_not_lose_it(board):
    opened = Board(board.place, CONTRACT)
    board.fault = refused
    with pytest.raises(AcceleratorError, match="refused a request: HISTORY_TOO_LONG"):
        opened.answer(REQUESTS[:1])
    board.fault = None
    assert_exact(CONTRACT, REQUESTS[:2], opened.answer(REQUESTS[:2]))
    opened.close()


def test_what_is_sent_disturbed_is_not_done(board, monkeypatch):
    opened = Board(board.place, CONTRACT)
    asked = board.requests
    monkeypatch.setattr(host, "frame", lambda *parts: disturbed(FRAME(*parts)))
    with pytest.raises(AcceleratorError, match="BAD_CHECKSUM"):
        opened.answer(REQUESTS[:1])
    assert board.requests == asked
    monkeypatch.undo()
    opened.close()


def test_a_board_that_is_too_small_says_so():
    with SimulatedBoard(replace(SIZES, items=40, rows=40)) as board:
        opened = Board(board.place, CONTRACT)
        with pytest.raises(AcceleratorError, match="the board rejected the contract: ROW_OUT_OF_RANGE"):
            opened.answer(REQUESTS[:1])
        opened.close()


@pytest.mark.parametrize("place", ["board", "here:", ":x", "host:99999"])
def test_what_names_no_board_is_refused(place):
    with pytest.raises(ConfigError, match="neither a device's path nor HOST:PORT"):
        Board(place, CONTRACT)


def test_no_accelerator_of_that_name():
    with pytest.raises(ConfigError, match="unknown accelerator 'fpga'; known: emulator, board:"):
        open_backend("fpga", CONTRACT, 79.0)


def test_a_file_is_no_serial_device(tmp_path):
    (tmp_path / "notes").touch()
    opened = Board(str(tmp_path / "notes"), CONTRACT)
    with pytest.raises(AcceleratorError, match="not a serial device"):
        opened.answer(REQUESTS[:1])
    opened.close()


class Wrong(Emulator):
    def answer(self, requests):
        found = super().answer(requests)
        return [replace(one, answer=replace(one.answer, scores=one.answer.scores + 1)) for one in found]


def test_an_accelerator_that_answers_otherwise_is_found_out():
    contract = Contract.of(model_of(60, 16), histories(9, 60, 9))
    assert Backend("emulator", contract, Emulator(contract, emulated(contract, K)), 79.0).verify(ASKED) == 1
    with pytest.raises(AcceleratorError, match="request 0 differs from the integer contract"):
        Backend("emulator", contract, Wrong(contract, emulated(contract, K)), 79.0).verify(ASKED)


def test_a_board_that_is_not_there_is_logged_and_not_used(caplog):
    with caplog.at_level(logging.WARNING):
        backend = open_backend("board:127.0.0.1:1", CONTRACT, 79.0)
    assert "127.0.0.1:1: cannot connect" in caplog.text
    assert backend.verify(ASKED) == 0
    assert backend.rank(ASKED) == [None]
    assert backend.figures() == {"answered": 0, "failed": 1, "cycles": 0, "predicted_microseconds": 0}
    backend.close()
