"""The batcher on a real event loop, with a ranker that only takes time."""

import asyncio
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from lanner.errors import ConfigError, OverloadedError
from lanner.serving.scheduler import Batcher, LatencyProfile, Scheduler, SchedulerConfig, VariantId

FULL, SMALL, POPULAR = (VariantId("cpu", name) for name in ("full", "small", "popularity"))
SECONDS = {FULL: (0.0002, 0.0008), SMALL: (0.0002, 0.0004), POPULAR: (0.00002, 0.00002)}
"""Of a batch, and of each request in it."""


def seconds(variant, size):
    fixed, each = SECONDS[variant]
    return fixed + each * size


def profile(slower=1):
    ms = {one: {n: 1e3 * slower * seconds(one, n) for n in (1, 16, 64)} for one in SECONDS}
    return LatencyProfile({one: {n: (p50, 1.3 * p50) for n, p50 in table.items()} for one, table in ms.items()})


def spin(duration):
    until = time.perf_counter() + duration
    while time.perf_counter() < until:
        pass


class Ranker:
    """Gives each query back; an exception is given, or raised where it is a RuntimeError."""

    def __init__(self, slower=1):
        self.batches, self.slower = [], slower

    def __call__(self, variant, queries):
        self.batches.append((variant, list(queries)))
        spin(self.slower * seconds(variant, len(queries)))
        for query in queries:
            if isinstance(query, RuntimeError):
                raise query
        return queries


def run(conversation, rank=None, slower=1, **settings):
    async def whole():
        ranker, config = rank or Ranker(slower), SchedulerConfig(most_inline_ms=4.0 * slower)
        batcher = Batcher(Scheduler(profile(slower), (FULL, SMALL), config, POPULAR), ranker, **settings)
        try:
            return await asyncio.wait_for(conversation(batcher, ranker), 20)
        finally:
            batcher.close()

    return asyncio.run(whole())


def test_a_request_is_answered_by_the_best_variant_at_once():
    async def conversation(batcher, ranker):
        waited = []
        for _ in range(20):
            begun = time.perf_counter()
            done = await batcher.submit("a", 0.05)
            waited.append(time.perf_counter() - begun - done.worked_s)
            assert (done.result, done.backend, done.variant) == ("a", "cpu", "full")
        assert min(waited) < 0.001, "nothing delays a request while the loop idles"
        assert batcher.depth == 0

    run(conversation)


def test_requests_of_one_turn_are_ranked_together():
    async def conversation(batcher, ranker):
        answers = await asyncio.gather(*(batcher.submit(n, 1.0) for n in range(4)))
        assert [done.result for done in answers] == [0, 1, 2, 3]
        assert ranker.batches == [(FULL, [0, 1, 2, 3])]

    run(conversation)


def test_between_two_batches_the_loop_does_other_work():
    async def conversation(batcher, ranker):
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        await asyncio.gather(*(batcher.submit(n, 1.0) for n in range(40)))
        other.cancel()
        assert turns >= len(ranker.batches) >= 8

    run(conversation)


def test_how_late_a_request_is_already_counts():
    async def conversation(batcher, ranker):
        done = await batcher.submit("late", 0.05, arrived_at=time.perf_counter() - 0.0485)
        assert done.variant != "full"
        assert done.queued_s > 0.048
        with pytest.raises(OverloadedError):
            await batcher.submit("later", 0.05, arrived_at=time.perf_counter() - 0.0501)
        assert batcher.refused == 1

    run(conversation)


def test_a_request_read_after_a_long_turn_of_the_loop_is_taken_to_have_waited_in_its_socket():
    async def conversation(batcher, ranker):
        first = asyncio.create_task(batcher.submit("a", 1.0))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(spin, 0.01)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await batcher.submit("b", 1.0)).queued_s > 0.01
        await first
        await asyncio.sleep(0.02)
        assert (await batcher.submit("c", 1.0)).queued_s < 0.01, "the loop was idle"

    run(conversation)


def test_an_exception_is_that_of_its_own_query():
    async def conversation(batcher, ranker):
        wrong = ConfigError("no such thing")
        kinds = await asyncio.gather(*(batcher.submit(q, 1.0) for q in ("a", wrong, "b")), return_exceptions=True)
        assert (kinds[0].result, kinds[1], kinds[2].result) == ("a", wrong, "b")
        assert (await batcher.submit("c", 1.0)).result == "c"

    run(conversation)


def test_a_query_on_which_a_batch_fails_fails_alone():
    async def conversation(batcher, ranker):
        bad = RuntimeError("a bug")
        answers = await asyncio.gather(*(batcher.submit(q, 1.0) for q in ("a", bad, "b")), return_exceptions=True)
        assert (answers[0].result, answers[1], answers[2].result) == ("a", bad, "b")

    run(conversation)


def test_a_ranker_that_loses_an_outcome_leaves_nobody_waiting():
    async def conversation(batcher, ranker):
        answers = await asyncio.gather(*(batcher.submit(q, 1.0) for q in "ab"), return_exceptions=True)
        assert [str(one) for one in answers] == ["1 queries have 0 outcomes"] * 2

    run(conversation, rank=lambda variant, queries: [])


def test_a_cancelled_request_is_not_ranked_and_harms_no_other():
    async def conversation(batcher, ranker):
        tasks = [asyncio.create_task(batcher.submit(n, 1.0)) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(one, "result", None) for one in found] == [0, None, 2]
        assert isinstance(found[1], asyncio.CancelledError)
        waiting = [asyncio.create_task(batcher.submit(n, 1.0)) for n in range(20)]
        await asyncio.sleep(0.002)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        before = len(ranker.batches)
        await asyncio.sleep(0.01)
        assert (len(ranker.batches), batcher.depth, batcher.scheduler.depth) == (before, 0, 0)

    run(conversation)


def test_a_slow_request_runs_in_a_thread_with_one_core_and_the_loop_goes_on():
    ends = threading.Event()

    def work():
        ends.wait(5)
        pools = [pool for pool in threadpool_info() if pool["num_threads"] != 1]
        return threading.current_thread().name, pools

    async def conversation(batcher, ranker):
        slow = asyncio.create_task(batcher.submit_slow(work, 1.0))
        assert (await batcher.submit("quick", 1.0)).result == "quick"
        assert (slow.done(), batcher.depth) == (False, 1)
        ends.set()
        done = await slow
        assert done.result[0].startswith("lanner-slow")
        assert done.result[1] == []
        assert (done.variant, batcher.depth) == ("", 0)
        assert done.worked_s > 0

    run(conversation)


def test_slow_requests_that_would_begin_too_late_are_refused():
    begun = []

    def work():
        begun.append(1)
        time.sleep(0.2)

    async def conversation(batcher, ranker):
        await batcher.submit_slow(work, 1.0)
        found = await asyncio.gather(*(batcher.submit_slow(work, 0.15) for _ in range(10)), return_exceptions=True)
        refused = [one for one in found if isinstance(one, OverloadedError)]
        assert 6 <= len(refused) == batcher.refused
        assert len(begun) == 1 + 10 - len(refused)
        assert all(one.retry_after_s > 0 for one in refused)
        await batcher.submit_slow(work, 0.15)  # nobody is before it, however long it takes

    run(conversation, slow_threads=1)


def test_the_queue_of_slow_requests_is_bounded():
    ends = threading.Event()

    async def conversation(batcher, ranker):
        asked = [asyncio.create_task(batcher.submit_slow(lambda: ends.wait(5), 10.0)) for _ in range(10)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        ends.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(one, OverloadedError) for one in found) == 6

    run(conversation, slow_queue=4)


def test_a_cancelled_slow_request_that_has_not_begun_never_does():
    begun, ends = [], threading.Event()

    async def conversation(batcher, ranker):
        first = asyncio.create_task(batcher.submit_slow(lambda: ends.wait(5), 10.0))
        second = asyncio.create_task(batcher.submit_slow(lambda: begun.append(1), 10.0))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        ends.set()
        await first
        await batcher.submit_slow(lambda: None, 10.0)
        assert begun == []

    run(conversation, slow_threads=1)


def test_when_it_closes_what_waits_is_refused():
    async def conversation(batcher, ranker):
        tasks = [asyncio.create_task(batcher.submit(n, 5.0)) for n in range(20)]
        await asyncio.sleep(0.003)
        batcher.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[-1], OverloadedError)
        for submit in (lambda: batcher.submit(1, 1.0), lambda: batcher.submit_slow(lambda: 1, 1.0)):
            with pytest.raises(OverloadedError, match="stopping"):
                await submit()

    run(conversation)


async def loaded(batcher, rate, duration, deadline_s, overhead_s):
    """Requests as an HTTP server hands them on, each of which takes the loop so long besides; (variant, latency)."""
    found, tasks = [], set()

    async def one(due):
        spin(overhead_s)
        try:
            done = await batcher.submit(0, deadline_s, due)
            found.append((done.variant, time.perf_counter() - due))
        except OverloadedError:
            found.append(("", time.perf_counter() - due))

    begun = time.perf_counter()
    for after in np.cumsum(np.random.default_rng(1).exponential(1 / rate, int(rate * duration))):
        if (wait := begun + after - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(begun + after))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found


def test_overload_keeps_goodput_and_personal_answers():
    slower, deadline_s = 4, 0.1
    capacity = 1 / (0.0004 + slower * seconds(SMALL, 16) / 16)

    def in_time(share):
        """Answers in time, and those of them that are personal, a second at a share of the capacity."""
        found = run(lambda batcher, _: loaded(batcher, share * capacity, 1.0, deadline_s, 0.0004), slower=slower)
        variants = [variant for variant, latency in found if variant and latency <= deadline_s]
        return len(variants), len([variant for variant in variants if variant != "popularity"])

    def keeps():
        calm, calm_personal = in_time(0.4)
        kept, personal = in_time(1.5)
        return calm_personal >= 0.8 * calm >= 0.3 * capacity and kept >= 1.5 * calm and personal >= 0.25 * calm

    assert any(keeps() for _ in range(8)), "others may take the cores, but not each time"


def test_what_the_loop_does_beside_ranking_is_learned():
    async def conversation(batcher, ranker):
        before = batcher.overhead_s
        for _ in range(4):  # a busy machine answers few requests a second
            await loaded(batcher, 300, 1.5, 0.1, 0.001)
            if batcher.overhead_s > 1.5 * before:
                break
        assert batcher.overhead_s > 1.5 * before
        assert 0.2 < batcher.busy <= 1.0

    run(conversation)
