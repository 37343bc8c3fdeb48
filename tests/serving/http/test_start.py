"""What becomes of the collector of garbage while a server starts."""

import asyncio
import gc

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")

import uvicorn
from typer.testing import CliRunner

from lanner.cli.main import app
from lanner.errors import ConfigError
from lanner.serving import running
from lanner.serving.http.server import _Server


@pytest.fixture
def collector():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("collector")
def test_it_rests_until_the_server_has_started(monkeypatch):
    async def started(self, sockets=None):
        return None

    gc.disable()
    monkeypatch.setattr(uvicorn.Server, "startup", started)
    asyncio.run(_Server(uvicorn.Config(None)).startup())
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.mark.usefixtures("collector")
def test_it_goes_on_where_none_starts(monkeypatch, tmp_path):
    rested = []

    def check(config):
        rested.append(not gc.isenabled())
        raise ConfigError("no champion")

    monkeypatch.setattr(running, "check", check)
    assert CliRunner().invoke(app, ["serve", str(tmp_path)]).exception is not None
    assert rested == [True]
    assert gc.isenabled()
