"""The dispatcher with engines that only take time."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from lanner.errors import OverloadedError
from lanner.serving.dispatcher import Dispatcher, Spare
from lanner.serving.scheduling import ElasticConfig, LatencyProfile, Policy
from lanner.serving.scheduling.contract import LOOK_S
from lanner.serving.waited import WAITED_S

ENGINES = {("cpu", "full"): "full", ("cpu", "small"): "small"}
PROFILE = {"cpu": {"full": {1: (20.0, 22.0), 4: (80.0, 88.0)}, "small": {1: (1.0, 1.2), 4: (4.0, 4.8)}}}
SECONDS = {"full": 0.02, "small": 0.001, "spare": 0.0}
WITH_SPARE = {
    "is_quick": lambda engine, work: engine == "spare",
    "spare": Spare("cpu", "spare", 0.001),
    "engines": {**ENGINES, ("cpu", "spare"): "spare"},
}


def work(engine: str) -> str:
    time.sleep(SECONDS[engine])
    return engine


def one_by_one(engine: str, works: Sequence[Callable]) -> list:
    outcomes = []
    for one in works:
        try:
            outcomes.append(one(engine))
        except Exception as error:
            outcomes.append(error)
    return outcomes


def dispatched(
    conversation: Callable,
    is_quick: Callable = lambda engine, work: False,
    beside: Callable | None = None,
    spare: Spare | None = None,
    engines: dict = ENGINES,
    **elastic: float,
) -> None:
    async def talk() -> None:
        policy = Policy(LatencyProfile(PROFILE), ("full", "small"), {"cpu": 1})
        loop = asyncio.get_running_loop()
        workers = ElasticConfig(**elastic) if elastic else None
        dispatcher = Dispatcher(policy, engines, one_by_one, loop, workers, is_quick, beside, spare)
        await conversation(dispatcher)
        await asyncio.to_thread(dispatcher.close)

    asyncio.run(talk())


def test_a_calm_request_is_answered_by_the_best():
    async def conversation(dispatcher):
        done = await dispatcher.submit(work, 1.0)
        assert (done.result, done.variant, done.backend) == ("full", "full", "cpu")
        assert done.worked_s >= 0.02
        assert dispatcher.depth == 0

    dispatched(conversation)


def test_workers_use_one_core_each():
    faiss = pytest.importorskip("faiss", reason="the extra 'serving' is not installed")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)

    async def conversation(dispatcher):
        done = await dispatcher.submit(lambda engine: faiss.omp_get_max_threads(), 1.0)
        assert (done.result, faiss.omp_get_max_threads()) == (1, 2)

    try:
        dispatched(conversation)
    finally:
        faiss.omp_set_num_threads(before)


def test_how_busy_it_was_is_counted():
    async def conversation(dispatcher):
        assert dispatcher.occupied[:4] == (0, 0.0, 3, 0)
        await dispatcher.submit(work, 1.0)
        with pytest.raises(OverloadedError):
            await dispatcher.submit(work, 0.0001)
        depth, worked_s, _, refused, request_s = dispatcher.occupied
        assert (depth, refused) == (0, 1)
        assert 0.02 <= worked_s < 0.5
        assert 0.01 < request_s < 0.05

    dispatched(conversation, maximum=3)


def test_only_what_is_quick_is_answered_on_the_loop():
    def thread(engine):
        return threading.current_thread()

    async def conversation(dispatcher):
        slow, quick = await dispatcher.submit(thread, 1.0), await dispatcher.submit(thread, 0.015)
        assert (slow.variant, quick.variant) == ("full", "small")
        assert slow.result.name.startswith("lanner-worker")
        assert quick.result is threading.main_thread()

    dispatched(conversation, is_quick=lambda engine, work: engine == "small")


def test_how_busy_the_loop_is_rises_and_falls():
    async def conversation(dispatcher):
        async def looked():
            await asyncio.sleep(LOOK_S * 1.2)

        await looked()
        idle = dispatcher.busy
        until = time.perf_counter() + 2 * LOOK_S
        while time.perf_counter() < until:
            await asyncio.sleep(0)
        busy = dispatcher.busy
        await looked()
        await looked()
        assert idle < 0.3 < busy
        assert dispatcher.busy < 0.3

    dispatched(conversation)


def test_many_at_once_are_answered_further_down_and_in_time():
    async def conversation(dispatcher):
        asked = (dispatcher.submit(work, 0.3) for _ in range(60))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        answered = [one for one in outcomes if not isinstance(one, OverloadedError)]
        # At 20 ms each the best variant could answer 15 of them.
        assert len(answered) > 20
        assert "small" in {one.variant for one in answered}

    dispatched(conversation)


def test_what_cannot_be_in_time_is_refused_and_not_worked_on():
    async def conversation(dispatcher):
        worked = []
        with pytest.raises(OverloadedError) as refused:
            await dispatcher.submit(worked.append, 0.0001)
        assert refused.value.retry_after_s > 0
        assert (worked, dispatcher.refused, dispatcher.depth) == ([], 1, 0)

    dispatched(conversation)


def test_an_error_of_the_work_reaches_who_asked_and_nobody_else():
    def broken(engine):
        raise RuntimeError("broken")

    async def conversation(dispatcher):
        first = dispatcher.submit(broken, 1.0)
        second = dispatcher.submit(work, 1.0)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(outcomes[0], RuntimeError)
        assert outcomes[1].result in ENGINES.values()

    dispatched(conversation)


def test_who_went_away_is_not_worked_for():
    async def conversation(dispatcher):
        worked = []
        blocking = asyncio.create_task(dispatcher.submit(work, 1.0))
        await asyncio.sleep(0)
        gone = asyncio.create_task(dispatcher.submit(worked.append, 1.0))
        await asyncio.sleep(0)
        gone.cancel()
        await blocking
        await asyncio.sleep(0.05)
        assert worked == []
        assert dispatcher.depth == 0

    dispatched(conversation)


def test_workers_come_under_load_and_go_when_it_is_over():
    async def conversation(dispatcher):
        async def load(until):
            while time.perf_counter() < until:
                await asyncio.gather(*(dispatcher.submit(work, 1.0) for _ in range(30)), return_exceptions=True)

        assert dispatcher.workers == {"cpu": 1}
        await load(time.perf_counter() + 1.2)
        assert dispatcher.workers == {"cpu": 3}
        await asyncio.sleep(1.5)
        assert dispatcher.workers == {"cpu": 1}

    dispatched(conversation, maximum=3, grow_after_s=0.1, shrink_after_s=0.3)


def test_on_closing_what_waits_is_refused():
    async def conversation(dispatcher):
        asked = [asyncio.create_task(dispatcher.submit(work, 5.0)) for _ in range(20)]
        await asyncio.sleep(0.005)
        await asyncio.to_thread(dispatcher.close)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert any(isinstance(one, OverloadedError) for one in outcomes)
        assert all(isinstance(one, OverloadedError) or one.result in ENGINES.values() for one in outcomes)

    dispatched(conversation)


def test_what_no_engine_answers_in_time_gets_the_spare_one_on_the_loop():
    async def conversation(dispatcher):
        asked = (dispatcher.submit(work, 0.2) for _ in range(300))
        outcomes = await asyncio.gather(*asked)
        spared = [one for one in outcomes if one.variant == "spare"]
        # Of the deadline half may be spent on waiting for those that take a millisecond each.
        assert 100 < len(spared) < 300
        assert max(one.queued_s + one.worked_s for one in spared) < 0.15
        assert dispatcher.refused == len(spared)
        with pytest.raises(OverloadedError):
            await dispatcher.submit(work, 1e-6)
        with pytest.raises(OverloadedError):
            await asyncio.gather(*(dispatcher.submit(work, 0.03, lowest="full") for _ in range(9)))

    dispatched(conversation, **WITH_SPARE)


def test_those_beside_are_asked_first_and_threads_do_what_these_do_not():
    told = []

    def beside(engine, variant, works, then):
        told.append((variant, len(works)))
        if len(told) == 1:
            asyncio.get_running_loop().call_later(0.01, then, ["from beside"])
        elif len(told) == 2:
            asyncio.get_running_loop().call_later(0.01, then, None)
        return len(told) <= 2

    async def conversation(dispatcher):
        answers = [(await dispatcher.submit(work, 1.0)).result for _ in range(3)]
        assert answers == ["from beside", "full", "full"]
        assert told == [("full", 1)] * 3

    dispatched(conversation, beside=beside)


def test_whom_a_batch_keeps_too_long_gets_the_spare_one_and_the_batch_is_for_nobody():
    def beside(engine, variant, works, then):
        asyncio.get_running_loop().call_later(0.5, then, ["late"] * len(works))
        return True

    async def conversation(dispatcher):
        begun = time.perf_counter()
        done = await dispatcher.submit(work, 0.2)
        assert (done.result, done.variant) == ("spare", "spare")
        assert 0.14 <= time.perf_counter() - begun < 0.2
        assert dispatcher.refused == 1
        await asyncio.sleep(0.5)

    dispatched(conversation, beside=beside, **WITH_SPARE)


def test_a_deadline_runs_from_when_the_request_came():
    async def conversation(dispatcher):
        assert (await dispatcher.submit(work, 0.2)).variant == "full"
        WAITED_S.set(0.11)
        done = await dispatcher.submit(work, 0.2)
        assert done.variant == "small"
        assert done.queued_s >= 0.11
        WAITED_S.set(0.15)
        assert (await dispatcher.submit(work, 0.2)).variant == "spare"

    dispatched(conversation, **WITH_SPARE)
