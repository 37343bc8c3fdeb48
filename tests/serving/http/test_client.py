import asyncio
import json
import sys

import httpx
import pytest
from stand_in_service import StandInService

from lanner.client import AsyncClient, Client, Retries
from lanner.errors import ConfigError, MissingExtraError, OverloadedError, RequestError, ServerError, UnknownIdError
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile, create
from lanner.serving.http.limits import Limits
from lanner.serving.messages import Event, ExplainRequest, Item, RecommendRequest, User

QUICK = Retries(attempts=4, first_wait_s=0.001, longest_wait_s=3.0)


@pytest.fixture
def service():
    return StandInService()


def with_client(app, use, **options):
    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with AsyncClient("http://localhost", transport=transport, **options) as client:
            return await use(client)

    return asyncio.run(run())


def test_every_operation_by_the_async_client(service):
    async def use(client):
        answer = await client.recommend(RecommendRequest(user_id="ada", k=3))
        assert [one.item_id for one in answer.items] == ["ada-1", "ada-2", "ada-3"]
        assert (await client.explain(ExplainRequest(item_id="7", user_id="ada"))).item.reasons[0].name == "Casablanca"
        assert (await client.add_events([Event(user_id="a", item_id="b", key="1")])).accepted == 1
        assert (await client.add_events([Event(user_id="a", item_id="b", key="1")])).duplicates == 1
        for id in ["a/b?c", "..", ".", "é 漢", "%2F"]:
            assert not (await client.put_item(id, Item(title="t"))).existed
            assert (await client.delete_item(id)).existed
            assert not (await client.put_user(id, User(profile="p", ties=["b"]))).existed
            assert (await client.delete_user(id)).id == id
        assert len((await client.similar_items("a/b", 2)).items) == 2
        assert (await client.search("two words & more", 1, "ada")).items[0].item_id == "two words & more for ada-1"
        assert (await client.search("w", 1)).items[0].item_id == "w for None-1"
        assert (await client.live()).alive
        status = await client.status()
        assert (status.queue_depth, status.recent.p50_ms, status.attributes) == (3, None, {"genre": ["Noir"]})
        assert (await client.ready()).ready
        service.ready = False
        assert (await client.ready()).degraded == ["no model yet"]
        assert 'lanner_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0' in await client.metrics()

    with_client(App(service), use)


@pytest.mark.parametrize(
    ("ask", "kind", "line"),
    [
        (lambda client: client.recommend(RecommendRequest(user_id="unknown")), UnknownIdError, "is not known"),
        (lambda client: client.recommend(RecommendRequest(k=0)), RequestError, "k: expected `int` >= 1, received 0"),
        (lambda client: client.add_events([]), RequestError, "events: expected `array` of length >= 1"),
        (lambda client: client.recommend(RecommendRequest(user_id="bug")), ServerError, "Internal Server Error: error"),
        (lambda client: client.recommend(RecommendRequest(user_id="bundle")), ServerError, "Service Unavailable"),
        (lambda client: client.recommend(RecommendRequest(user_id="overloaded")), OverloadedError, "too many wait"),
        (lambda client: client.delete_item(""), RequestError, "empty id"),
    ],
)
def test_a_refusal_is_an_error_with_the_servers_line(service, ask, kind, line):
    with pytest.raises(kind, match=line):
        with_client(App(service), ask, retries=Retries(attempts=1))


def test_a_missing_key_is_an_error_and_the_right_one_is_sent(service, tmp_path):
    key = create(tmp_path / "keys", "read", "shop")
    app = App(service, KeyFile(tmp_path / "keys"))
    ask = lambda client: client.search("w", 1)
    with pytest.raises(ConfigError, match="unknown API key"):
        with_client(app, ask)
    assert with_client(app, ask, key=key).items
    with pytest.raises(ConfigError, match="has the role read; this operation needs write"):
        with_client(app, lambda client: client.put_item("7", Item()), key=key)


def responses(*given):
    """A transport that answers in this order, and the requests it got."""
    waiting, got = list(given), []

    def answer(request):
        got.append(request)
        one = waiting.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    return httpx.MockTransport(answer), got


STORED = httpx.Response(200, json={"accepted": 1, "duplicates": 0})
BUSY = httpx.Response(503, json={"error": "not yet"})


@pytest.mark.parametrize("broken", [BUSY, httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone")])
def test_a_request_is_sent_again_with_the_same_keys(broken):
    transport, got = responses(broken, broken, STORED)
    with Client("http://server", retries=QUICK, transport=transport) as client:
        events = [Event(user_id="a", item_id="b"), Event(user_id="a", item_id="b")]
        assert client.add_events(events).accepted == 1
    assert len(got) == 3
    assert len({request.content for request in got}) == 1
    keys = [one["key"] for one in json.loads(got[0].content)["events"]]
    assert len(set(keys)) == 2
    assert events[0].key is None


def test_an_answer_that_was_lost_does_not_store_events_twice(service):
    app, lost = App(service), []

    async def losing(scope, receive, send):
        async def dropped(message):
            pass

        lost.append(1)
        await app(scope, receive, send if len(lost) > 1 else dropped)
        if len(lost) == 1:
            raise httpx.ReadError("cut")

    async def use(client):
        return await client.add_events([Event(user_id="a", item_id="b")])

    async def run():
        transport = httpx.ASGITransport(losing)
        async with AsyncClient("http://localhost", transport=transport, retries=QUICK) as client:
            return await use(client)

    stored = asyncio.run(run())
    assert (stored.accepted, stored.duplicates, len(service.events)) == (0, 1, 1)


def waits_of(monkeypatch, *given, retries=None):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    transport, _ = responses(*given)
    with Client("http://server", retries=retries, transport=transport) as client:
        try:
            client.add_events([Event(user_id="a", item_id="b")])
        except (OverloadedError, ServerError) as error:
            return waits[1:], error
    return waits[1:], None


def test_waits_double_with_some_chance_in_them(monkeypatch):
    waits, error = waits_of(monkeypatch, *[BUSY] * 6, retries=Retries(attempts=6, first_wait_s=1.0, longest_wait_s=6.0))
    assert str(error) == "not yet"
    assert error.status == 503
    for wait, most in zip(waits, [1, 2, 4, 8, 16], strict=True):
        assert most / 2 <= wait <= most or wait == 6.0


def test_a_server_is_waited_for_as_long_as_it_asks_but_not_forever(monkeypatch):
    def full(seconds):
        return httpx.Response(429, json={"error": "full"}, headers={"retry-after": seconds})

    assert waits_of(monkeypatch, full("2"), STORED, retries=QUICK) == ([2.0], None)
    waits, error = waits_of(monkeypatch, full("60"), STORED, retries=QUICK)
    assert (waits, error.retry_after_s) == ([], 60.0)
    waits, error = waits_of(monkeypatch, full("soon"), full("nan"), retries=QUICK)
    assert len(waits) == 1


def test_what_will_not_become_better_is_not_tried_again(monkeypatch):
    for status in (400, 401, 404, 500):
        transport, got = responses(httpx.Response(status, text="<html>"))
        with (
            Client("http://server", retries=QUICK, transport=transport) as client,
            pytest.raises(Exception, match=f"the server responded with status {status}"),
        ):
            client.live()
        assert len(got) == 1


def test_a_timeout_is_one_line_and_not_tried_again():
    transport, got = responses(httpx.ReadTimeout("slow"))
    with (
        Client("http://server", timeout_s=2, transport=transport) as client,
        pytest.raises(ServerError, match="within 2 s"),
    ):
        client.live()
    assert len(got) == 1


def test_a_server_that_is_not_there_is_one_line():
    client = Client("http://127.0.0.1:1", retries=Retries(attempts=2, first_wait_s=0.0))
    with pytest.raises(ServerError, match="cannot be reached"):
        client.live()


def test_an_answer_of_another_version_is_one_line():
    transport, _ = responses(httpx.Response(200, json={"alive": "yes"}))
    with Client("http://server", transport=transport) as client, pytest.raises(ServerError, match="match this client"):
        client.live()


@pytest.mark.parametrize("wrong", [{"address": "server:80"}, {"timeout_s": 0}])
def test_arguments_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Client(**({"address": "http://server"} | wrong))
    with pytest.raises(ConfigError, match="attempt"):
        Retries(attempts=0)


def test_without_httpx_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[client\]'"):
        Client("http://server")


def test_a_limited_caller_gets_through_by_waiting(service):
    app = App(service, limits=Limits(requests_per_second=100, burst=1))

    async def use(client):
        return [await client.search("w", 1) for _ in range(2)]

    assert len(with_client(app, use, retries=Retries(first_wait_s=0.02))) == 2
