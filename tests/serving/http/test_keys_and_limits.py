import json
import stat

import pytest
from asking import ask
from stand_in_service import StandInService

from lanner.errors import ConfigError, StorageError
from lanner.serving.http.app import App
from lanner.serving.http.keys import KeyFile, check_address, create, revoke
from lanner.serving.http.limits import Limits, RateLimit
from lanner.serving.http.routes import ROUTES


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


def bearer(key):
    return {"authorization": f"Bearer {key}"}


def test_the_file_holds_hashes_alone_and_is_its_owners(path):
    key = create(path, "read", "shop")
    assert len(key) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text()
    assert key.removeprefix("lanner_") not in path.read_text()
    assert set(json.loads(path.read_text())) == {"name", "role", "sha256"}
    assert list(path.parent.iterdir()) == [path]


def test_a_key_is_known_until_it_is_revoked(path):
    first, second = create(path, "read", "shop"), create(path, "admin", "owner")
    keys = KeyFile(path)
    assert keys.holder(f"Bearer {first}".encode()).name == "shop"
    assert keys.holder(f"bearer  {second} ".encode()).role == "admin"
    for wrong in [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        f"Basic {first}".encode(),
        f"Bearer {first}x".encode(),
        b"Bearer \xff",
    ]:
        assert keys.holder(wrong) is None
    revoke(path, "shop")
    keys.refresh()
    assert keys.holder(f"Bearer {first}".encode()) is None
    assert keys.holder(f"Bearer {second}".encode()) is not None


def test_every_key_is_compared_even_after_one_is_found(path, monkeypatch):
    first = create(path, "read", "first")
    for n in range(4):
        create(path, "read", f"other-{n}")
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: bool(compared.append(a)) or a == b)
    assert KeyFile(path).holder(f"Bearer {first}".encode()).name == "first"
    assert len(compared) == 5


def test_what_cannot_be_a_key_is_refused(path):
    create(path, "read", "shop")
    for role, name in [("read", "shop"), ("owner", "x"), ("read", ""), ("read", "a b"), ("read", "x" * 65)]:
        with pytest.raises(ConfigError):
            create(path, role, name)
    with pytest.raises(ConfigError, match="known: shop"):
        revoke(path, "other")
    assert list(path.parent.iterdir()) == [path]
    path.write_text('{"name":"a"}\n')
    with pytest.raises(ConfigError, match="line 1: not a valid key"):
        KeyFile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyFile(path.with_name("none"))


def test_of_two_changes_at_once_one_is_refused(path):
    create(path, "read", "shop")
    path.with_name(".keys.partial").touch()
    with pytest.raises(StorageError, match="another change is in progress"):
        create(path, "read", "other")
    assert len(KeyFile(path).keys) == 1


def test_a_file_that_goes_or_breaks_leaves_the_keys_as_they_were(path):
    key = create(path, "read", "shop")
    keys = KeyFile(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.refresh()
    assert keys.holder(f"Bearer {key}".encode())


def test_without_keys_only_this_machine_is_answered(path):
    for host in ["127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9"]:
        check_address(host, None)
    for host in ["0.0.0.0", "::", "192.168.1.4", "example.org"]:
        with pytest.raises(ConfigError, match=r"create a key, bind to 127\.0\.0\.1"):
            check_address(host, None)
        check_address(host, None, open_to_all=True)
    create(path, "read", "shop")
    check_address("0.0.0.0", KeyFile(path))


ASKED = [
    ("read", "POST", "/v1/recommend", b'{"user_id":"a"}'),
    ("read", "POST", "/v1/explain", b'{"user_id":"a","item_id":"b"}'),
    ("read", "GET", "/v1/items/7/similar", b""),
    ("read", "GET", "/v1/search?q=a", b""),
    ("read", "GET", "/v1/status", b""),
    ("read", "GET", "/metrics", b""),
    ("write", "POST", "/v1/events", b'{"events":[{"user_id":"a","item_id":"b"}]}'),
    ("write", "PUT", "/v1/items/7", b"{}"),
    ("write", "PUT", "/v1/users/7", b"{}"),
    ("admin", "DELETE", "/v1/items/7", b""),
    ("admin", "DELETE", "/v1/users/7", b""),
]


def test_every_guarded_route_is_asked_below():
    assert len(ASKED) == len([route for route in ROUTES if route.role is not None])


@pytest.mark.parametrize(("needed", "method", "address", "body"), ASKED)
def test_a_role_may_do_what_it_says_and_what_lies_below(path, needed, method, address, body):
    held = {role: create(path, role, role) for role in ("read", "write", "admin")}
    app, order = App(StandInService(), KeyFile(path)), list(held)
    for role, key in held.items():
        reply = ask(app, method, address, body, bearer(key))
        assert reply.status == (200 if order.index(role) >= order.index(needed) else 403)
        if reply.status == 403:
            assert reply.error == f"the key '{role}' has the role {role}; this operation needs {needed}"
    for headers in [{}, bearer("lanner_x"), {"authorization": f"Basic {held['admin']}"}]:
        reply = ask(app, method, address, body, headers)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    for address in ["/", "/health/live", "/health/ready", "/openapi.json"]:
        assert ask(app, "GET", address).status == 200


def test_a_file_without_keys_lets_nobody_in(path):
    create(path, "read", "shop")
    revoke(path, "shop")
    app = App(StandInService(), KeyFile(path))
    assert ask(app, "POST", "/v1/recommend", b'{"user_id":"a"}', bearer("")).status == 401


def test_a_bucket_fills_with_time_and_holds_no_more_than_the_burst():
    rate = RateLimit(Limits(requests_per_second=2, burst=3))
    assert [rate.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert rate.take("a", 0.25) == pytest.approx(0.25)
    assert rate.take("a", 0.5) == 0
    assert rate.take("b", 0.5) == 0
    assert [rate.take("a", 1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_buckets_are_bounded_and_the_one_silent_longest_goes():
    rate = RateLimit(Limits(requests_per_second=1, burst=1, callers=3))
    for caller in ["a", "b", "c", "a", "d"]:
        rate.take(caller, 0.0)
    assert len(rate) == 3
    assert (rate.take("a", 0.0), rate.take("b", 0.0)) == (1.0, 0.0)
    for n in range(1000):
        rate.take(str(n), 0.0)
    assert len(rate) == 3


def test_no_rate_is_no_limit():
    rate = RateLimit(Limits())
    assert {rate.take("a", 0.0) for _ in range(1000)} == {0.0}
    assert len(rate) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *({"body_bytes": 0}, {"burst": 0}, {"callers": 0}, {"requests_per_second": -1}),
        *({"head_bytes": 10}, {"connections": 0}, {"pending_body_bytes": 100}),
    ],
)
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)


def test_each_caller_has_a_bucket(path):
    app = App(StandInService(), limits=Limits(requests_per_second=0.5, burst=2))
    statuses = [ask(app, "GET", "/v1/search?q=a", client="10.0.0.1").status for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = ask(app, "GET", "/v1/search?q=a", client="10.0.0.1")
    assert refused.headers["retry-after"] == "2"
    assert ask(app, "GET", "/v1/search?q=a", client="10.0.0.2").status == 200
    assert ask(app, "GET", "/health/live", client="10.0.0.1").status == 200


def test_with_keys_the_bucket_is_the_keys_and_wrong_keys_are_counted_too(path):
    key, other = create(path, "read", "a"), create(path, "read", "b")
    app = App(StandInService(), KeyFile(path), Limits(requests_per_second=0.5, burst=1))

    def status(headers):
        return ask(app, "GET", "/v1/search?q=a", headers=headers).status

    assert [status(bearer(key)), status(bearer(key)), status(bearer(other))] == [200, 429, 200]
    assert [status(bearer("x")), status(bearer("y"))] == [401, 429]


def test_the_rate_is_shared_out_among_the_workers():
    rate = RateLimit(Limits(requests_per_second=2, burst=4), workers=2)
    assert [rate.take("a", 0.0) for _ in range(3)] == [0, 0, 1.0]
    assert [RateLimit(Limits(requests_per_second=1, burst=1), workers=9).take("a", 0.0)] == [0]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8080", 200),
        ("127.8.9.1", 200),
        ("[::1]:8080", 200),
        ("10.0.0.9:8080", 200),  # the address of the connection
        ("shop.example:8080", 200),
        (None, 200),
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.4", 421),
        ("[::1", 200),
        ("[", 421),
        ("\xff", 421),
    ],
)
def test_without_keys_only_names_of_this_machine_are_hosts(host, status):
    app = App(StandInService(), limits=Limits(hosts=("Shop.example",)))
    for address in ("/v1/search?q=a", "/health/live", "/", "/nothing"):
        reply = ask(app, "GET", address, headers={"host": host})
        assert reply.status == (404 if (status, address) == (200, "/nothing") else status)
    if status == 421:
        assert "limits.hosts" in reply.error


def test_with_keys_any_host_is_served_but_where_names_are_given(path):
    create(path, "read", "shop")
    any_host, named = App(StandInService(), KeyFile(path)), App(StandInService(), KeyFile(path), Limits(hosts=("a.b",)))
    of_everybody = App(StandInService(), limits=Limits(hosts=("*",)))
    assert ask(any_host, "GET", "/health/live", headers={"host": "evil.example"}).status == 200
    assert ask(of_everybody, "GET", "/health/live", headers={"host": "evil.example"}).status == 200
    assert ask(named, "GET", "/health/live", headers={"host": "evil.example"}).status == 421
    assert ask(named, "GET", "/health/live", headers={"host": "a.b"}).status == 200


def test_readiness_tells_of_a_damaged_key_file(path):
    key = create(path, "read", "shop")
    app = App(StandInService(), KeyFile(path))
    whole = path.read_bytes()
    for damaged in (b"{", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        for _ in range(2):
            app.refresh_keys()
            health = ask(app, "GET", "/health/ready").json
            assert health == {
                "ready": True,
                "degraded": ["the key file cannot be read; the previous keys stay valid"],
            }
        assert ask(app, "GET", "/v1/search?q=a", headers=bearer(key)).status == 200
        path.write_bytes(whole)
        app.refresh_keys()
        assert ask(app, "GET", "/health/ready").json == {"ready": True}
