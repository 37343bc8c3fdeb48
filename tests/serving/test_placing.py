"""Items are taken in after the requests."""

import asyncio
import time
from collections.abc import Callable

import pytest

from lanner.errors import OverloadedError
from lanner.serving.placing import Placing


def placed(conversation: Callable, take_in: Callable[[], None], busy: float) -> None:
    async def talk() -> None:
        placing = Placing(take_in, lambda: busy)
        await conversation(placing)
        placing.close()

    asyncio.run(talk())


@pytest.mark.parametrize(("busy", "least_s", "most_s"), [(0.4, 0.06, 0.13), (0.6, 0.1, 0.2), (40.0, 0.5, 1.2)])
def test_it_rests_the_longer_the_busier_the_loop_is(busy, least_s, most_s):
    async def conversation(placing):
        begun = time.perf_counter()
        for _ in range(3):
            await placing.catch_up()
        assert least_s <= time.perf_counter() - begun < most_s

    placed(conversation, lambda: time.sleep(0.02), busy)


def test_where_nothing_was_to_be_taken_in_nobody_rests():
    async def conversation(placing):
        begun = time.perf_counter()
        for _ in range(50):
            await placing.catch_up()
        assert time.perf_counter() - begun < 0.5

    placed(conversation, lambda: None, 0.9)


@pytest.mark.parametrize(("busy", "most"), [(0.0, 33), (0.6, 16), (1.0, 2)])
def test_no_more_wait_than_are_placed_within_a_second(busy, most):
    async def conversation(placing):
        queued = [placing.queued() for _ in range(most)]
        for one in queued:
            one.__enter__()
        with pytest.raises(OverloadedError, match="too many items"), placing.queued():
            pass
        queued.pop().__exit__(None, None, None)
        with placing.queued():
            pass

    placed(conversation, lambda: None, busy)


def test_what_goes_wrong_is_told_and_the_next_turn_comes():
    def fail() -> None:
        raise ValueError("broken")

    async def conversation(placing):
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await placing.catch_up()

    placed(conversation, fail, 0.0)
