"""The garbage collector of a worker."""

import asyncio
import gc

import pytest

pytest.importorskip("uvicorn", reason="the extra 'serving' is not installed")

import uvicorn

from lanner.serving.http.server import _Server


@pytest.fixture
def collector():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("collector")
def test_collection_starts_with_the_server_and_skips_what_was_loaded(monkeypatch):
    async def started(self, sockets=None):
        return None

    gc.disable()
    monkeypatch.setattr(uvicorn.Server, "startup", started)
    asyncio.run(_Server(uvicorn.Config(None)).startup())
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
