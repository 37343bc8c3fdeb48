"""What was shown comes to the store in batches, and whoever adds never waits."""

import threading
import time

import pytest

from lanner.errors import DataError, StoreUnavailableError
from lanner.serving.store import Exposure, open_store
from lanner.serving.versions.exposures import Exposures


def shown(number: int, user: str = "anna") -> Exposure:
    return Exposure("ladder", "champion", user, float(number), [f"i{number}"])


def wait_for(condition) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Log:
    """A store that may be gone, stuck, or dislike a row."""

    def __init__(self) -> None:
        self.batches: list[list[Exposure]] = []
        self.gone = False
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def expose(self, rows) -> None:
        self.entered.set()
        assert self.open.wait(5)
        if self.gone:
            raise StoreUnavailableError("the store is gone")
        if any(row.user_id == "\0" for row in rows):
            raise DataError("holds NUL")
        self.batches.append(list(rows))

    @property
    def rows(self) -> list[Exposure]:
        return [row for batch in self.batches for row in batch]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def buffers(log):
    made: list[Exposures] = []

    def make(*arguments, **named) -> Exposures:
        made.append(Exposures(*arguments, **named))
        return made[-1]

    yield make
    log.open.set()
    for one in made:
        one.close()


def test_all_come_to_a_store_in_their_order_in_bounded_batches(buffers, tmp_path):
    store = open_store(str(tmp_path / "events.db"))
    buffer = buffers(store.expose, batch=7, interval_s=0.01)
    rows = [shown(number, f"u{number % 3}") for number in range(50)]
    assert all(buffer.add(row) for row in rows)
    buffer.close()
    assert list(store.exposures("ladder")) == rows
    assert buffer.figures() == {"exposures_waiting": 0, "exposures_written": 50, "exposures_dropped": 0}
    store.close()


def test_batches_are_bounded(buffers, log):
    log.open.clear()
    buffer = buffers(log.expose, batch=7, interval_s=0.01)
    for number in range(50):
        buffer.add(shown(number))
    log.open.set()
    buffer.close()
    assert max(map(len, log.batches)) == 7
    assert len(log.rows) == 50


def test_a_full_batch_does_not_wait_for_the_interval(buffers, log):
    buffer = buffers(log.expose, batch=5, interval_s=60)
    for number in range(5):
        buffer.add(shown(number))
    wait_for(lambda: len(log.rows) == 5)


def test_a_store_that_is_stuck_holds_up_nobody_and_what_is_too_much_is_counted(buffers, log):
    log.open.clear()
    buffer = buffers(log.expose, capacity=20, batch=5, interval_s=0.01)
    started = time.perf_counter()
    taken = [buffer.add(shown(number)) for number in range(100)]
    assert time.perf_counter() - started < 0.5
    assert taken == [True] * 20 + [False] * 80
    assert buffer.figures()["exposures_dropped"] == 80
    log.open.set()
    wait_for(lambda: len(log.rows) == 20)


def test_a_store_that_comes_back_gets_everything_once(buffers, log):
    log.gone = True
    buffer = buffers(log.expose, batch=4, interval_s=0.005)
    for number in range(10):
        buffer.add(shown(number))
    wait_for(lambda: buffer.problem == "the store is gone")
    log.gone = False
    wait_for(lambda: buffer.figures()["exposures_written"] == 10)
    assert [row.timestamp for row in log.rows] == list(map(float, range(10)))
    assert buffer.problem == ""


def test_a_row_that_cannot_be_stored_costs_no_other(buffers, log):
    buffer = buffers(log.expose, interval_s=60)
    for number in range(9):
        buffer.add(shown(number, "\0" if number == 4 else "anna"))
    buffer.close()
    assert len(log.rows) == 8
    assert buffer.figures() == {"exposures_waiting": 0, "exposures_written": 8, "exposures_dropped": 1}


def test_who_is_forgotten_leaves_nothing_that_comes_later(buffers, log):
    log.open.clear()
    buffer = buffers(log.expose, batch=2, interval_s=0.005)
    buffer.add(shown(0, "anna"))
    assert log.entered.wait(5)
    for number in range(1, 6):
        buffer.add(shown(number, "anna" if number % 2 else "bert"))
    forgetting = threading.Thread(target=buffer.forget, args=("anna",))
    forgetting.start()
    time.sleep(0.02)
    assert forgetting.is_alive(), "what is on its way must have arrived before the store forgets"
    log.open.set()
    forgetting.join()
    written = len(log.rows)
    buffer.close()
    assert {row.user_id for row in log.rows[written:]} <= {"bert"}
    assert [row.timestamp for row in log.rows if row.user_id == "bert"] == [2.0, 4.0]


def test_after_the_end_nothing_is_taken_and_what_could_not_be_written_is_counted(buffers, log):
    log.gone = True
    buffer = buffers(log.expose, interval_s=60)
    buffer.add(shown(1))
    buffer.close()
    assert not buffer.add(shown(2))
    assert buffer.figures() == {"exposures_waiting": 0, "exposures_written": 0, "exposures_dropped": 2}
