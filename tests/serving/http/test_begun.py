"""The first step is taken at once, and everything else is as in a task of asyncio's."""

import asyncio
from contextvars import ContextVar

import pytest

from lanner.serving.http.begun import begun

SAID: ContextVar[str] = ContextVar("said", default="nothing")


def run(conversation) -> None:
    async def within_a_task() -> None:
        await conversation(asyncio.get_running_loop())

    asyncio.run(within_a_task())


def test_what_needs_no_second_step_is_done_when_it_returns():
    async def conversation(loop):
        done = []

        async def answer():
            done.append(asyncio.current_task())

        outer = asyncio.current_task()
        task = begun(loop, answer())
        assert done == [task]
        assert asyncio.current_task() is outer
        await task

    run(conversation)


def test_the_rest_is_done_when_what_it_waits_for_has_come():
    async def conversation(loop):
        waits_for, steps = loop.create_future(), []

        async def answer():
            steps.append("begun")
            steps.append(await waits_for)
            await asyncio.sleep(0)
            steps.append("slept")
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)

        task = begun(loop, answer())
        assert steps == ["begun"]
        waits_for.set_result("came")
        with pytest.raises(TimeoutError):
            await task
        assert steps == ["begun", "came", "slept"]

    run(conversation)


def test_a_timeout_of_the_first_step_ends_the_task():
    async def conversation(loop):
        async def answer():
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)

        with pytest.raises(TimeoutError):
            await begun(loop, answer())

    run(conversation)


@pytest.mark.parametrize("sleeps", [False, True])
def test_an_error_is_the_tasks(sleeps):
    async def conversation(loop):
        async def answer():
            if sleeps:
                await asyncio.sleep(0.001)
            raise ValueError("of the work")

        task = begun(loop, answer())
        with pytest.raises(ValueError, match="of the work"):
            await task

    run(conversation)


def test_it_can_be_cancelled_and_tidies_up():
    async def conversation(loop):
        tidied = []

        async def answer():
            try:
                await asyncio.sleep(10)
            finally:
                tidied.append(True)

        task = begun(loop, answer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tidied

    run(conversation)


def test_its_context_is_its_own_from_the_first_step_on():
    async def conversation(loop):
        heard = []

        async def answer():
            SAID.set("something")
            await asyncio.sleep(0)
            heard.append(SAID.get())

        task = begun(loop, answer())
        assert SAID.get() == "nothing"
        await task
        assert heard == ["something"]

    run(conversation)
