"""A hot swap under load: no request sees a closed deployment, and every deployment is closed exactly once."""

import asyncio
import threading
import time

import pytest

from lanner.errors import BundleError, StoreUnavailableError
from lanner.serving.versions.hot_swap import Deployments


class Deployment:
    """Knows whether it was closed, or asked while it was."""

    def __init__(self, version: str = "1", fault: Exception | None = None) -> None:
        self.version, self.fault = version, fault
        self.closed = self.warm = self.caught_up = 0

    def verify(self) -> int:
        if self.fault:
            raise self.fault
        return 8

    def warm_up(self) -> None:
        self.warm += 1

    def catch_up(self) -> None:
        self.caught_up += 1

    def close(self) -> None:
        self.closed += 1

    async def answer(self) -> str:
        assert not self.closed
        await asyncio.sleep(0)
        assert not self.closed
        return self.version


def serving(**deployments: Deployment) -> Deployments[Deployment]:
    served: Deployments[Deployment] = Deployments()
    for alias, deployment in deployments.items():
        served.swap(alias, deployment)
    return served


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_fifty_swaps_under_load():
    deployments = [Deployment(str(number)) for number in range(51)]
    served, seen = serving(champion=deployments[0]), []

    async def hammer() -> None:
        last = -1
        while True:
            with served.acquire("champion") as deployment:
                version = int(await deployment.answer())
            assert version >= last, "a request after a swap got the deployment before"
            last = version
            seen.append(version)

    tasks = [asyncio.create_task(hammer()) for _ in range(8)]
    for deployment in deployments[1:]:
        before = len(seen)
        served.swap("champion", deployment)
        await until(lambda before=before: len(seen) > before + 20)
    for task in tasks:
        task.cancel()
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True))
    await until(lambda: all(one.closed == 1 for one in deployments[:-1]))
    assert deployments[-1].closed == 0
    assert len(set(seen)) > 40
    await served.close()
    assert [one.closed for one in deployments] == [1] * 51


async def test_the_old_deployment_is_closed_after_its_last_request():
    old, new = Deployment("old"), Deployment("new")
    served = serving(champion=old)
    with served.acquire("champion") as one, served.acquire("champion") as other:
        served.swap("champion", new)
        assert served.versions() == {"champion": "new"}
        with served.acquire("champion") as third:
            assert third is new
        assert one is other is old
        await asyncio.sleep(0.02)
        assert old.closed == 0
    await until(lambda: old.closed == 1)


async def test_a_request_that_fails_ends_its_lease():
    old = Deployment()
    served = serving(champion=old)
    with pytest.raises(ValueError), served.acquire("champion"):
        raise ValueError
    served.swap("champion", Deployment())
    await until(lambda: old.closed == 1)


async def test_two_aliases_share_a_deployment_that_lives_until_both_have_left():
    first, second, third = (Deployment(str(number)) for number in (1, 2, 3))
    served = serving(champion=first, challenger=second)
    await served.serve("champion", "2", pytest.fail)
    assert served.versions() == {"champion": "2", "challenger": "2"}
    await until(lambda: first.closed == 1)
    await served.serve("challenger", "3", lambda: third)
    await asyncio.sleep(0.02)
    assert second.closed == 0
    await served.serve("champion", "3", pytest.fail)
    await until(lambda: second.closed == 1)
    await served.close()
    assert (third.closed, third.warm) == (1, 1)


def refuse() -> Deployment:
    raise BundleError("golden.json: damaged")


def break_down() -> Deployment:
    raise RuntimeError("a runtime\nbroke")


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        (refuse, "golden.json: damaged"),
        (break_down, "version 2 cannot be opened .a runtime broke"),
        (lambda: Deployment("7"), "version 2 was replaced by 7"),
        (lambda: Deployment("2", BundleError("golden request 3")), "golden request 3"),
        (lambda: Deployment("2", RuntimeError("shapes")), "version 2 failed verification or warm-up .shapes."),
    ],
)
async def test_a_deployment_that_cannot_be_opened_leaves_the_old_one(opening, said):
    old, made = Deployment("1"), []
    served = serving(champion=old)
    with pytest.raises(BundleError, match=said) as raised:
        await served.serve("champion", "2", lambda: made.append(opening()) or made[-1])
    assert "\n" not in str(raised.value)
    assert served.versions() == {"champion": "1"}
    assert old.closed == 0
    assert [one.closed for one in made] == [1] * len(made)


async def test_requests_go_on_while_a_deployment_is_opened():
    served, opening, go_on = serving(champion=Deployment("1")), threading.Event(), threading.Event()

    def slowly() -> Deployment:
        opening.set()
        assert go_on.wait(5)
        return Deployment("2")

    task = asyncio.create_task(served.serve("champion", "2", slowly))
    await asyncio.to_thread(opening.wait, 5)
    with served.acquire("champion") as deployment:
        assert await deployment.answer() == "1"
    go_on.set()
    await task
    assert served.versions() == {"champion": "2"}


async def test_nothing_is_served_under_an_unknown_alias_or_after_the_end():
    served = serving(champion=Deployment())
    with pytest.raises(StoreUnavailableError, match="starting or stopping"):
        served.acquire("challenger")
    await served.close()
    with pytest.raises(StoreUnavailableError, match="starting or stopping"):
        served.acquire("champion")
    await served.close()


async def test_nothing_is_written_between_the_last_look_and_the_swap():
    """A writer stores, then lets every deployment catch up; one is swapped in at the same time."""
    stored: list[int] = []

    class Reading(Deployment):
        def catch_up(self) -> None:
            seen = list(stored)
            time.sleep(0.002)
            self.seen = seen

    for version in range(20):
        served = serving(champion=Reading("old"))
        task = asyncio.create_task(
            served.serve("champion", str(version), lambda version=version: Reading(str(version)))
        )
        await asyncio.sleep(0.0003 * version)
        stored.append(version)
        await served.catch_up()
        with served.acquire("champion") as deployment:
            assert version in deployment.seen
        await task
        with served.acquire("champion") as deployment:
            assert version in deployment.seen
        await served.close()


async def test_callers_that_wait_together_share_one_turn_and_none_has_the_failure_of_another():
    class Away(Deployment):
        def catch_up(self) -> None:
            super().catch_up()
            time.sleep(0.02)
            if self.caught_up == 1:
                raise StoreUnavailableError("the store does not answer")

    deployment = Away()
    served = serving(champion=deployment)
    found = await asyncio.gather(*(served.catch_up() for _ in range(10)), return_exceptions=True)
    assert [type(one) for one in found] == [StoreUnavailableError] + [type(None)] * 9
    assert deployment.caught_up == 2


async def test_a_caller_that_is_cancelled_leaves_no_second_turn_at_the_same_time():
    running = []

    class Slow(Deployment):
        def catch_up(self) -> None:
            running.append(1)
            assert len(running) == 1
            time.sleep(0.05)
            running.pop()

    served = serving(champion=Slow())
    first = asyncio.create_task(served.catch_up())
    await asyncio.sleep(0.01)
    first.cancel()
    await served.catch_up()


async def test_a_deployment_that_cannot_catch_up_is_not_swapped_in():
    class Behind(Deployment):
        def catch_up(self) -> None:
            raise StoreUnavailableError("the store does not answer")

    old, behind = Deployment("1"), Behind("2")
    served = serving(champion=old)
    with pytest.raises(StoreUnavailableError):
        await served.serve("champion", "2", lambda: behind)
    assert (served.versions(), behind.closed) == ({"champion": "1"}, 1)
