"""The blocks of docs/federated.md run: three clients and a server over sockets."""

import re
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lanner.data.interactions import Dataset
from lanner.federated.statistics import Statistics, ease
from lanner.federated.wire import Server

pytest.importorskip("cryptography", reason="cryptography is not installed")
PAGE = (Path(__file__).parents[2] / "docs" / "federated.md").read_text()
ITEMS = 9


@pytest.fixture(scope="module")
def names():
    found: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        exec(compile(block, "docs/federated.md", "exec"), found)
    return found


@pytest.fixture(scope="module")
def data():
    events = {"user": np.repeat(np.arange(30), 4), "item": (np.arange(120) * 7 + np.arange(120) // 20) % ITEMS}
    return Dataset.from_frames(pl.DataFrame(events))


def fitted(names, data, client, server):
    """What the server fits with three clients, each with the users of one residue."""
    user = data.interactions.user
    parts = [data.with_interactions(data.interactions.take(np.flatnonzero(user % 3 == part))) for part in range(3)]
    listening = Server(("127.0.0.1", 0), names["KEY"], deadline_s=30)
    threads = [
        threading.Thread(target=names[client], args=(listening.address, number, part), daemon=True)
        for number, part in enumerate(parts)
    ]
    for one in threads:
        one.start()
    model = names[server](listening)
    for one in threads:
        one.join(30)
    listening.close()
    return model


def test_the_closed_form_is_that_of_the_pooled_events(names, data):
    found = fitted(names, data, "at_client", "at_server")
    pooled = ease(Statistics.of(data, "event"), 500)
    users = data.user_batch(np.arange(10))
    np.testing.assert_array_equal(found.score(users), pooled.score(users))


def test_the_private_form_is_noisy_and_complete(names, data):
    found = fitted(names, data, "at_private_client", "at_private_server")
    exact = ease(Statistics.of(data, "user"), 20)
    users = data.user_batch(np.arange(10))
    assert found.num_items == ITEMS
    difference = found.score(users) - exact.score(users)
    assert np.isfinite(difference).all()
    assert np.abs(difference).max() > 1e-3
