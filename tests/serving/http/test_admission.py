"""Which requests are rejected when responses are too slow or the event loop lags."""

import asyncio
import time

import pytest
from asking import HANG, ask, receiver, scope_of
from stand_in_service import StandInService

from lanner.serving.http.admission import ARRIVED_AT, Admission
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile, create
from lanner.serving.http.limits import Limits

BODY = b'{"user_id":"ada"}'


def fill(admission: Admission) -> int:
    """How many are admitted at once."""

    async def enter() -> int:
        entered = 0
        while admission.admit(0.0) is not None:
            entered += 1
        return entered

    return asyncio.run(enter())


def pass_through(admission: Admission, steps: list[float], answered: bool = True) -> None:
    """One request after another, each staying for a step in seconds."""

    async def run() -> None:
        now = 1e9
        for step in steps:
            assert admission.admit(0.0) is not None
            now += step
            admission.leave(now, answered)

    asyncio.run(run())


def test_a_first_burst_is_admitted_up_to_a_bound():
    assert fill(Admission(0.02)) == 20


def test_as_many_are_admitted_as_leave_within_the_deadline():
    admission = Admission(0.1)
    pass_through(admission, [0.0001] * 2000)
    # 10,000 a second and half of 0.1 s.
    assert 470 <= fill(admission) <= 510


def test_the_best_rate_fades_when_fewer_leave():
    admission = Admission(0.1)
    pass_through(admission, [0.0001] * 2000 + [1.0] * 60)
    assert fill(admission) == 100


def test_what_was_not_answered_does_not_raise_the_bound():
    admission = Admission(0.1)
    pass_through(admission, [0.0001] * 2000, answered=False)
    assert fill(admission) == 100


@pytest.mark.parametrize(("held_s", "admitted"), [(0.0, 8), (0.1, 1)])
def test_while_the_loop_is_late_few_are_admitted_and_then_again_more(held_s, admitted):
    async def run() -> None:
        admission = Admission(0.1)
        assert admission.admit(time.perf_counter()) is not None
        time.sleep(held_s)
        assert sum(admission.admit(time.perf_counter()) is not None for _ in range(8)) == admitted
        for _ in range(10):
            await asyncio.sleep(0.003)
            if admission.admit(time.perf_counter()) is not None:
                admission.leave(time.perf_counter(), True)
        assert admission.admit(time.perf_counter()) is not None

    asyncio.run(run())


def test_the_heartbeat_stops_where_nobody_comes():
    async def run() -> int:
        admission, loop = Admission(0.1), asyncio.get_running_loop()
        admission.admit(time.perf_counter())
        await asyncio.sleep(0.05)
        return len(loop._scheduled)

    assert asyncio.run(run()) == 0


def test_the_service_knows_when_a_request_arrived():
    arrived = []

    class Waits(StandInService):
        async def recommend(self, request):
            arrived.append(time.perf_counter() - ARRIVED_AT.get())
            return await super().recommend(request)

    async def run() -> None:
        app = App(Waits(), deadline_s=1.0)
        for held_s in (0.0, 0.1):
            time.sleep(held_s)
            await app.reply(scope_of("POST", "/v1/recommend", {"content-type": "application/json"}), receiver([BODY]))

    asyncio.run(run())
    assert arrived[0] < 0.05 < 0.09 < arrived[1]
    assert ARRIVED_AT.get() is None


def test_a_full_server_rejects_with_a_line():
    service = StandInService()
    app = App(service)
    app.admission.limit = 0
    for method, address in (("POST", "/v1/recommend"), ("GET", "/v1/search?q=a"), ("GET", "/v1/items/7/similar")):
        reply = ask(app, method, address, BODY)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert reply.error == "overloaded: the deadline cannot be met; try again later"
    assert ask(app, "GET", "/v1/status").status == 200
    assert service.calls == 0


def test_slow_bodies_take_no_seats():
    async def run() -> tuple[int, int]:
        app = App(StandInService(), limits=Limits(body_seconds=0.2), deadline_s=0.01)
        scope = scope_of("POST", "/v1/recommend", {"content-type": "application/json"})
        slow = [asyncio.create_task(app.reply(dict(scope), receiver([b"{", HANG]))) for _ in range(200)]
        await asyncio.sleep(0.05)
        inside = app.admission.inside
        honest = await app.reply(dict(scope), receiver([BODY]))
        assert {reply.status for reply in await asyncio.gather(*slow)} == {408}
        return inside, honest.status

    assert asyncio.run(run()) == (0, 200)


def test_wrong_keys_and_wrong_requests_do_not_raise_the_bound(tmp_path):
    key = create(tmp_path / "keys", "read", "shop")

    async def run() -> int:
        app = App(StandInService(), KeyFile(tmp_path / "keys"), deadline_s=50.0)
        headers = {"content-type": "application/json"}
        for number in range(2000):
            if number % 2:
                scope, body = scope_of("POST", "/v1/recommend", {**headers, "authorization": "Bearer wrong"}), BODY
            else:
                scope, body = scope_of("POST", "/v1/recommend", {**headers, "authorization": f"Bearer {key}"}), b"{"
            assert (await app.reply(scope, receiver([body]))).status in (400, 401)
            await asyncio.sleep(0)
        return app.admission.limit

    assert asyncio.run(run()) == 50_000  # as before, of a deadline that no pause of the machine can miss


def test_the_bodies_that_are_arriving_are_bounded_together():
    async def run() -> list[int]:
        app = App(StandInService(), limits=Limits(body_seconds=0.2, body_bytes=1000, pending_body_bytes=5000))
        scope = scope_of("POST", "/v1/recommend", {"content-type": "application/json"})
        asked = [asyncio.create_task(app.reply(dict(scope), receiver([b" " * 900, HANG]))) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert (await app.reply(dict(scope), receiver([BODY]))).status == 200
        return sorted(reply.status for reply in await asyncio.gather(*asked))

    assert asyncio.run(run()) == [408] * 5 + [503] * 5
