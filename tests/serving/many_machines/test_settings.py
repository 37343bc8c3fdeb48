"""What is said before a replica is started."""

import importlib.util

import pytest

from lanner.errors import ConfigError, DataError, MissingExtraError, OverloadedError, UnknownIdError
from lanner.serving.many_machines.config import RayConfig, check_sharded, check_shared
from lanner.serving.many_machines.replica import Refused
from lanner.serving.running import ServerConfig, with_engine


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"replicas": 0}, "ray.replicas is 0"),
        ({"shards": 0}, "ray.shards is 0"),
        ({"replicas": 4, "most_replicas": 2}, "ray.most_replicas is 2, fewer than the 4"),
        ({"cpus": 0.0}, "ray.cpus is 0.0"),
        ({"shrink_after_s": float("inf")}, "ray.shrink_after_s is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, line):
    with pytest.raises(ConfigError, match=line):
        RayConfig(**settings)


def test_replicas_must_hear_of_one_another(installed):
    check_shared(RayConfig(), "events.db", 1.0)
    check_shared(RayConfig(address="auto"), "postgresql://shop@db/events", 1.0)
    with pytest.raises(ConfigError, match=r"'events.db' lies on one machine"):
        check_shared(RayConfig(address="auto"), "events.db", 1.0)
    with pytest.raises(ConfigError, match="watch_seconds is 0"):
        check_shared(RayConfig(), "events.db", 0.0)


def test_what_cannot_be_dealt_into_shards_is_refused_before_anything_starts():
    check_sharded(RayConfig(), "single", ("full", "int8"), True)
    check_sharded(RayConfig(shards=2), "ray", ("int8",), False)
    with pytest.raises(ConfigError, match=r"ray\.shards is 2, but the engine 'single' holds all items"):
        check_sharded(RayConfig(shards=2), "single", (), False)
    with pytest.raises(ConfigError, match=r"serve one variant, .*; model\.variants names 2"):
        check_sharded(RayConfig(shards=2), "ray", ("full", "int8"), False)
    with pytest.raises(ConfigError, match="serve one bundle"):
        check_sharded(RayConfig(shards=2), "ray", (), True)


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lanner\[ray\]'"):
        check_shared(RayConfig(), "events.db", 1.0)


def test_replicas_belong_to_the_engine_that_has_them():
    single = ServerConfig("bundle", "events.db")
    assert with_engine(single, "ray", None).ray == RayConfig()
    assert with_engine(single, "ray", 3).ray.most == 3
    with pytest.raises(ConfigError, match="--replicas 3 needs --engine ray"):
        with_engine(single, "single", 3)
    with pytest.raises(ConfigError, match=r"serving.engine is 'spark'"):
        with_engine(single, "spark", None)


@pytest.mark.parametrize(
    "error", [UnknownIdError("no item 'a'"), DataError("3 is odd", field="k"), OverloadedError("too busy", 2.5)]
)
def test_an_error_is_the_same_on_the_other_side(error):
    told = Refused.of(error).error()
    assert (type(told), str(told)) == (type(error), str(error))
    assert getattr(told, "retry_after_s", None) == getattr(error, "retry_after_s", None)
