"""Runs coroutine tests on their own event loop, for at most two minutes; provides a trained shop."""

import asyncio
import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from lanner.artifacts.bundle import read_bundle, write_compressed
from lanner.inference.tables import Int8Rows


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 120))
    return True


@pytest.fixture(scope="session")
def trained_shop(tmp_path_factory) -> Path:
    """The bundle of a hybrid that reads texts, as training writes it."""
    pytest.importorskip("onnxruntime", reason="an extra of serving is not installed")
    from small_shop import make_shop

    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def shop(trained_shop, tmp_path_factory) -> Path:
    """The same with one more personal variant, as compression would write it."""
    bundle = read_bundle(trained_shop)
    full, popularity = (bundle.variant(name) for name in bundle.variants)
    int8 = replace(full, name="int8", model=full.model.map_tables(Int8Rows.of))
    return write_compressed(tmp_path_factory.mktemp("compressed") / "bundle", bundle, [full, int8, popularity], {})
