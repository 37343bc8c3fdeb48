"""Exposures are written to the store in batches, and adding one never waits."""

import asyncio
import threading
import time

import pytest

from lanner.errors import DataError, StoreUnavailableError
from lanner.serving.store import Exposure, open_store
from lanner.serving.versions.exposures import Exposures


def shown(number: int, user: str = "anna") -> Exposure:
    return Exposure("ladder", "champion", user, float(number), [f"i{number}"])


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


class Log:
    """A store that may be gone, stuck, or reject a row."""

    def __init__(self) -> None:
        self.batches: list[list[Exposure]] = []
        self.gone = False
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

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


def started(*arguments, **named) -> Exposures:
    exposures = Exposures(*arguments, **named)
    exposures.start()
    return exposures


async def test_all_come_to_a_store_in_their_order(tmp_path):
    store = open_store(str(tmp_path / "events.db"))
    exposures = started(store.expose, batch=7, interval_s=0.01)
    rows = [shown(number, f"u{number % 3}") for number in range(50)]
    assert all(exposures.add(row) for row in rows)
    await exposures.close()
    assert list(store.exposures("ladder")) == rows
    assert exposures.figures() == {"exposures_waiting": 0, "exposures_written": 50, "exposures_dropped": 0}
    store.close()


async def test_batches_are_bounded_and_a_full_one_does_not_wait_for_the_interval(log):
    exposures = started(log.expose, batch=7, interval_s=60)
    for number in range(50):
        exposures.add(shown(number))
    await until(lambda: len(log.rows) == 50)
    assert max(map(len, log.batches)) == 7
    await exposures.close()


async def test_a_store_that_is_stuck_holds_up_nobody_and_what_is_too_much_is_counted(log):
    log.open.clear()
    exposures = started(log.expose, capacity=20, batch=5, interval_s=0.01)
    begun = time.perf_counter()
    assert [exposures.add(shown(number)) for number in range(100)] == [True] * 20 + [False] * 80
    assert time.perf_counter() - begun < 0.5
    assert exposures.figures()["exposures_dropped"] == 80
    log.open.set()
    await until(lambda: len(log.rows) == 20)
    await exposures.close()


async def test_a_store_that_comes_back_gets_everything_once(log):
    log.gone = True
    exposures = started(log.expose, batch=4, interval_s=0.005)
    for number in range(10):
        exposures.add(shown(number))
    await until(lambda: exposures.problem == "the store is gone")
    log.gone = False
    await until(lambda: exposures.figures()["exposures_written"] == 10)
    assert [row.timestamp for row in log.rows] == list(map(float, range(10)))
    assert exposures.problem == ""
    await exposures.close()


async def test_a_row_that_cannot_be_stored_costs_no_other(log):
    exposures = started(log.expose, interval_s=60)
    for number in range(9):
        exposures.add(shown(number, "\0" if number == 4 else "anna"))
    await exposures.close()
    assert len(log.rows) == 8
    assert exposures.figures() == {"exposures_waiting": 0, "exposures_written": 8, "exposures_dropped": 1}


async def test_a_user_who_is_forgotten_leaves_nothing_that_is_written_later(log):
    log.open.clear()
    exposures = started(log.expose, batch=2, interval_s=0.005)
    exposures.add(shown(0, "anna"))
    await until(log.entered.is_set)
    for number in range(1, 6):
        exposures.add(shown(number, "anna" if number % 2 else "bert"))
    forgetting = asyncio.create_task(exposures.forget("anna"))
    await asyncio.sleep(0.02)
    assert not forgetting.done(), "a batch on its way must have arrived before the store forgets"
    log.open.set()
    await forgetting
    written = len(log.rows)
    await exposures.close()
    assert {row.user_id for row in log.rows[written:]} <= {"bert"}
    assert [row.timestamp for row in log.rows if row.user_id == "bert"] == [2.0, 4.0]


async def test_after_the_end_nothing_is_taken_and_what_could_not_be_written_is_counted(log):
    log.gone = True
    exposures = started(log.expose, interval_s=60)
    exposures.add(shown(1))
    await exposures.close()
    assert not exposures.add(shown(2))
    assert exposures.figures() == {"exposures_waiting": 0, "exposures_written": 0, "exposures_dropped": 2}
