"""Who is turned away when replies leave too slowly, or the loop comes round too late."""

import asyncio
import time

import pytest

from lanner.serving.http.door import Door


def fill(door: Door) -> int:
    """How many are let in at once before it is full."""

    async def enter() -> int:
        entered = 0
        while door.lets_in(0.0):
            entered += 1
        return entered

    return asyncio.run(enter())


async def pass_through(door: Door, now: float, steps: list[float]) -> None:
    """One after another, each staying for a step."""
    for step in steps:
        assert door.lets_in(0.0)
        now += step
        door.leave(now)


def test_a_first_burst_is_let_in_up_to_a_bound():
    assert fill(Door(0.02)) == 20


def test_as_many_are_let_in_as_leave_within_the_deadline():
    door, now = Door(0.1), 1e9
    asyncio.run(pass_through(door, now, [0.0001] * 2000))
    # 10,000 a second and half of 0.1 s.
    assert 470 <= fill(door) <= 510


def test_the_best_rate_fades_when_fewer_leave():
    door, now = Door(0.1), 1e9
    asyncio.run(pass_through(door, now, [0.0001] * 2000 + [1.0] * 60))
    assert fill(door) == 100


@pytest.mark.parametrize(("held_s", "let_in"), [(0.0, 8), (0.1, 1)])
def test_while_the_loop_is_late_few_are_let_in_and_then_again_more(held_s, let_in):
    async def ask() -> None:
        door = Door(0.1)
        assert door.lets_in(time.perf_counter())
        time.sleep(held_s)
        assert sum(door.lets_in(time.perf_counter()) for _ in range(8)) == let_in
        for _ in range(10):
            await asyncio.sleep(0.003)
            if door.lets_in(time.perf_counter()):
                door.leave(time.perf_counter())
        assert door.lets_in(time.perf_counter())

    asyncio.run(ask())


def test_where_nobody_comes_the_beat_stops():
    async def wait() -> bool:
        door = Door(0.1)
        door.lets_in(time.perf_counter())
        await asyncio.sleep(0.05)
        return door._beats

    assert not asyncio.run(wait())
