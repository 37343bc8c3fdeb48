import asyncio
import json
import logging
import re
from urllib.parse import quote

import pytest
from asking import HANG, ask
from stand_in_service import StandInService

from lanner.errors import LannerError, StorageError
from lanner.serving.http.app import App
from lanner.serving.http.limits import Limits
from lanner.serving.http.responses import STATUS, status_of
from lanner.serving.http.routes import ROUTES


@pytest.fixture
def service():
    return StandInService()


@pytest.fixture
def app(service):
    return App(service)


def test_an_id_may_hold_anything_but_nul_and_white_space_at_its_ends(app, service):
    for id in ["7", "a/b", "a?b=c#d", "é✓ 漢字", "..", "a%2Fb", '"quoted"\\', "x" * 256]:
        reply = ask(app, "PUT", f"/v1/items/{quote(id, safe='')}", b'{"title":"t"}')
        assert (reply.status, reply.json["id"]) == (200, id)
    assert "a/b" in service.items


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("/v1/items/%ff", "item_id: the path is not percent-encoded UTF-8"),
        ("/v1/items/\xff", "item_id: the path is not percent-encoded UTF-8"),
        ("/v1/items/a%00b", "item_id: contains a NUL character"),
        ("/v1/items/" + "x" * 257, "item_id: Expected `str` of length <= 256, received 'xxx"),
        ("/v1/items/a?k=1", "unknown query parameter 'k'; known: none"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(app, address, line):
    reply = ask(app, "PUT", address, b"{}")
    assert reply.status == 400
    assert line in reply.error


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("", "missing query parameter 'q'"),
        ("q=a&q=b", "query parameter is repeated"),
        ("q=a&k=0", "k: Expected `int` >= 1, received '0'"),
        ("q=a&k=1001", "k: Expected `int` <= 1000, received '1001'"),
        ("q=a&k=NaN", "k: Expected `int`, got `str`, received 'NaN'"),
        ("q=a&k=" + "9" * 5000, "k: Integer value out of range"),
        ("q=%ff", "malformed query string"),
        ("q=\xff", "malformed query string"),
        ("q=a&user_id=", "user_id: Expected `str` of length >= 1"),
        ("q=a%00", "q: contains a NUL character"),
        ("&".join(f"p{n}=1" for n in range(40)), "malformed query string"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(app, query, line):
    reply = ask(app, "GET", f"/v1/search?{query}")
    assert reply.status == 400
    assert line in reply.error


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "the body is empty; send JSON"),
        (b"{", "malformed JSON"),
        (b"[]", "the body: Expected `object`, got `array`"),
        (b'{"k":0}', "k: expected `int` >= 1, received 0"),
        (b'{"k":"5"}', 'k: expected `int`, got `str`, received "5"'),
        (b'{"kk":5}', "unknown field `kk`"),
        (b'{"diversity":1e999}', "diversity: number out of range"),
        (b'{"diversity":NaN}', "malformed JSON"),
        (b'{"diversity":Infinity}', "malformed JSON"),
        (b'{"k":' + b"9" * 4000 + b"}", "k: expected `int` <= 1000"),
        (b'{"text":"\xff"}', "malformed JSON"),
        (b'{"text":"\\ud800"}', "malformed JSON"),
        (b'{"user_id":"a\\u0000"}', "NUL character"),
        (b'{"a":' + b"[" * 200_000, "the body"),
        (b"[" * 200_000, "the body"),
        (b'{"history":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "history[0]: expected `str`, got `array`"),
        (b'{"filters":{"attributes":{"genre":[7]}}}', "filters.attributes[...][0]: expected `str`, got `int`"),
        (b'{"user_id":"' + b"x" * 300 + b'"}', 'user_id: expected `str` of length <= 256, received "xxx'),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_its_place(app, body, line):
    reply = ask(app, "POST", "/v1/recommend", body)
    assert reply.status == 400
    assert line in reply.error
    assert len(reply.error) < 600


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"events":[x]}', "malformed JSON: invalid character (byte 11)"),
        (
            b'{"events":[{"user_id":"eve","item_id":"p2","rating":4}]}',
            "events[0]: object contains unknown field `rating`; the rating of an event is its `weight`, received ",
        ),
    ],
)
def test_an_event_that_cannot_be_read_is_refused_with_advice(app, body, error):
    reply = ask(app, "POST", "/v1/events", body)
    assert (reply.status, reply.error.startswith(error)) == (400, True), reply.error


@pytest.mark.parametrize("id", ["p2\n", " ", "eve ", "\teve", "a\nb", "\u00a0"])
def test_an_id_with_white_space_at_its_ends_is_refused(app, id):
    line = "must be one line without white space at its ends, received"
    told = {"user_id": id, "item_id": "p2"}, {"user_id": "eve", "item_id": id}
    for event, name in zip(told, ("user_id", "item_id"), strict=True):
        reply = ask(app, "POST", "/v1/events", json.dumps({"events": [event]}).encode())
        assert (reply.status, f"events[0].{name}: {line}" in reply.error) == (400, True), reply.error
    whole, of_item = quote(id, safe=""), {"item_id": "p2"}
    for method, target, body, place in (
        ("POST", "/v1/recommend", {"user_id": id}, "user_id"),
        ("POST", "/v1/recommend", {"history": ["p2", id]}, "history[1]"),
        ("POST", "/v1/recommend", {"user_id": "eve", "filters": {"allow": [id]}}, "filters.allow[0]"),
        ("POST", "/v1/recommend", {"user_id": "eve", "filters": {"deny": [id]}}, "filters.deny[0]"),
        ("POST", "/v1/explain", {"item_id": id, "user_id": "eve"}, "item_id"),
        ("POST", "/v1/explain", of_item | {"user_id": id}, "user_id"),
        ("POST", "/v1/explain", of_item | {"history": [id]}, "history[0]"),
        ("PUT", f"/v1/items/{whole}", {}, "item_id"),
        ("GET", f"/v1/items/{whole}/similar", None, "item_id"),
        ("PUT", f"/v1/users/{whole}", {}, "user_id"),
        ("PUT", "/v1/users/eve", {"ties": [id]}, "ties[0]"),
        ("GET", f"/v1/search?q=cup&user_id={whole}", None, "user_id"),
    ):
        reply = ask(app, method, target, b"" if body is None else json.dumps(body).encode())
        assert (reply.status, f"{place}: {line}" in reply.error) == (400, True), (target, reply.error)
    assert ask(app, "DELETE", f"/v1/users/{quote(id, safe='')}").status == 200, "older versions stored such ids"


def test_a_time_in_milliseconds_is_refused_with_its_unit(app):
    event = {"user_id": "a", "item_id": "b", "timestamp": 1790000000000}
    reply = ask(app, "POST", "/v1/events", json.dumps({"events": [event]}).encode())
    expected = "events[0].timestamp: must be in seconds since 1970, received 1790000000000"
    assert (reply.status, reply.error) == (400, expected)


@pytest.mark.parametrize("text", ["\\ud800", "a\\ud83db", "\\udc00", "\\ud800\\u0041", "\\\\\\uD800"])
def test_half_of_a_surrogate_pair_is_named(app, text):
    reply = ask(app, "POST", "/v1/recommend", f'{{"user_id":"{text}"}}'.encode())
    assert (reply.status, reply.error) == (400, "malformed JSON: half of a surrogate pair is not a character")


def test_a_pair_of_surrogates_and_an_escaped_backslash_are_no_half(app):
    for text in ("\\ud83d\\ude00", "\\\\ud800"):
        assert ask(app, "POST", "/v1/recommend", f'{{"user_id":"{text}"}}'.encode()).status == 200
        assert "surrogate" not in ask(app, "POST", "/v1/recommend", f'{{"user_id":"{text}",'.encode()).error


def test_an_escaped_backslash_before_u0000_is_no_nul(app):
    assert ask(app, "POST", "/v1/recommend", b'{"text":"\\\\u0000","user_id":"a"}').status == 200


@pytest.mark.parametrize(
    ("method", "address", "status", "allow"),
    [
        ("GET", "/v1/recommend", 405, "POST"),
        ("POST", "/v1/items/7", 405, "DELETE, PUT"),
        ("POST", "/v1/items/7/similar", 405, "GET, HEAD"),
        ("OPTIONS", "/v1/search", 405, "GET, HEAD"),
        ("BREW" * 100, "/v1/search", 405, "GET, HEAD"),
        ("DELETE", "/", 405, "GET, HEAD"),
        ("GET", "/v1/items/", 404, None),
        ("GET", "/v1/items//similar", 404, None),
        ("GET", "/v1/items/a/b/c", 404, None),
        ("GET", "/v1/../v1/search", 404, None),
        ("GET", "/../../etc/passwd", 404, None),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, None),
        ("GET", "//", 404, None),
        ("GET", "*", 404, None),
        ("GET", "/messages.py", 404, None),
    ],
)
def test_what_is_not_there_is_404_and_what_is_not_done_405(app, method, address, status, allow):
    reply = ask(app, method, address)
    assert reply.status == status
    assert reply.headers.get("allow") == allow
    assert reply.error


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]
)
def test_another_content_type_is_refused(app, content_type):
    reply = ask(app, "POST", "/v1/recommend", b"{}", {"content-type": content_type})
    assert reply.status == 415
    assert "expected application/json" in reply.error


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 415), ("br", 415), ("identity", 200), ("Identity", 200)])
def test_a_compressed_body_is_refused(app, encoding, status):
    reply = ask(app, "POST", "/v1/recommend", b'{"user_id":"a"}', {"content-encoding": encoding})
    assert reply.status == status
    assert status == 200 or reply.error.startswith(f"content-encoding: received {encoding}; ")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_the_content_type_do_not_matter(app, content_type):
    assert ask(app, "POST", "/v1/recommend", b'{"user_id":"a"}', {"content-type": content_type}).status == 200


def test_too_long_a_body_is_refused_whether_announced_or_not(service):
    app = App(service, limits=Limits(body_bytes=100))
    long = b'{"text":"' + b"x" * 200 + b'"}'
    assert ask(app, "POST", "/v1/recommend", long).status == 413
    assert ask(app, "POST", "/v1/recommend", b"", {"content-length": "9" * 30}).status == 413
    assert ask(app, "POST", "/v1/recommend", b"", {"content-length": "many"}).status == 400
    unending = [long, *[b"x"] * 3, HANG]
    assert ask(app, "POST", "/v1/recommend", parts=unending).status == 413
    assert service.calls == 0


def test_a_body_in_parts_is_joined_and_no_part_is_waited_for_once_it_is_whole(app):
    body = b'{"user_id":"ada"}'
    assert ask(app, "POST", "/v1/recommend", parts=[body[:4], body[4:], b""]).status == 200
    announced = {"content-length": str(len(body))}
    assert ask(app, "POST", "/v1/recommend", parts=[body, HANG], headers=announced).status == 200


def test_a_body_that_does_not_arrive_ends_with_408(service):
    app = App(service, limits=Limits(body_seconds=0.05))
    assert ask(app, "POST", "/v1/recommend", parts=[HANG]).status == 408
    assert ask(app, "POST", "/v1/recommend", parts=[b"{", HANG]).status == 408


def test_a_body_that_breaks_off_is_never_acted_on(app, service):
    for parts in ([b"{}", None], [None]):
        reply = ask(app, "POST", "/v1/recommend", parts=parts)
        assert (reply.status, "truncated" in reply.error) == (400, True)
    assert (service.calls, app.in_flight) == (0, 0)


@pytest.mark.parametrize(
    ("user", "status", "line"),
    [
        ("unknown", 404, "the user 'unknown' is not known; give a history"),
        ("request", 400, "give a user or a history, not both"),
        ("overloaded", 429, "too many wait; ask again"),
        ("config", 503, "Service Unavailable: error "),
        ("storage", 503, "Service Unavailable: error "),
        ("store", 503, "Service Unavailable: error "),
        ("bundle", 503, "Service Unavailable: error "),
        ("bug", 500, "Internal Server Error: error "),
    ],
)
def test_errors_of_the_service_become_statuses(app, user, status, line, caplog):
    reply = ask(app, "POST", "/v1/recommend", json.dumps({"user_id": user}).encode())
    assert reply.status == status
    assert reply.error.startswith(line)
    assert "secret" not in reply.error
    assert reply.headers.get("retry-after") == ("3" if status == 429 else None)
    if status >= 500:
        number = re.search(r"error (\w{8}) ", reply.error)[1]
        assert number in caplog.text
        assert "secret" in caplog.text


def test_only_faults_of_the_caller_are_4xx():
    class LaterError(StorageError):
        pass

    assert status_of(LaterError("full")) == 503
    assert status_of(ValueError("no LannerError")) == 500
    faults = {kind for kind in LannerError.__subclasses__() if kind.__module__ == "lanner.errors"}
    assert {kind.__name__ for kind in faults if STATUS.get(kind, 503) < 500} == {
        "RequestError",
        "UnknownIdError",
        "OverloadedError",
    }


def test_head_is_get_without_its_body(app):
    for address in ["/v1/search?q=a", "/health/live", "/", "/openapi.json", "/nothing"]:
        get, head = ask(app, "GET", address), ask(app, "HEAD", address)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers == {**get.headers, "content-length": str(len(get.body))}


def test_every_reply_is_guarded(app):
    for method, address in [("GET", "/"), ("GET", "/nothing"), ("POST", "/v1/recommend"), ("GET", "/metrics")]:
        headers = ask(app, method, address).headers
        policy = dict(one.strip().split(" ", 1) for one in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == ("no-cache" if address == "/" else "no-store")


def test_the_page_has_a_tag_and_is_sent_once(app):
    first = ask(app, "GET", "/")
    assert first.headers["content-type"].startswith("text/html")
    tag = first.headers["etag"]
    for has in [tag, f"W/{tag}", f'"other", {tag}', "*"]:
        again = ask(app, "GET", "/?v=2", headers={"if-none-match": has})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert ask(app, "GET", "/index.html", headers={"if-none-match": '"other"'}).body == first.body


def test_ready_is_503_while_the_service_is_not(app, service):
    assert (ask(app, "GET", "/health/ready").status, ask(app, "GET", "/health/live").json) == (200, {"alive": True})
    service.ready = False
    reply = ask(app, "GET", "/health/ready")
    assert (reply.status, reply.json) == (503, {"ready": False, "degraded": ["no model yet"]})
    assert ask(app, "GET", "/health/live").status == 200


def test_the_service_lives_as_long_as_the_worker(service):
    app, sent = App(service), []

    async def live():
        waiting = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan"}, waiting.get, _collector(sent)))
        await waiting.put({"type": "lifespan.startup"})
        await asyncio.sleep(0.05)
        assert service.started == 1
        await waiting.put({"type": "lifespan.shutdown"})
        await life

    asyncio.run(live())
    assert service.started == 0
    assert [one["type"] for one in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_service_that_cannot_start_ends_the_worker(service, caplog):
    async def fail():
        raise RuntimeError("no disk")

    async def receive():
        return {"type": "lifespan.startup"}

    service.start, sent = fail, []
    with caplog.at_level(logging.ERROR):
        asyncio.run(App(service)({"type": "lifespan"}, receive, _collector(sent)))
    assert sent == [{"type": "lifespan.startup.failed", "message": "no disk"}]


def test_every_route_can_be_found(app):
    for route in ROUTES:
        assert ask(app, route.method, route.path.replace("{item_id}", "7").replace("{user_id}", "7")).status != 404


def _collector(sent):
    async def send(message):
        sent.append(message)

    return send
