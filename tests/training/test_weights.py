"""The search for the views' weights."""

import numpy as np
import pytest
import torch

from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.models.fusion import ConcatFusion
from lanner.models.network import RecommenderNetwork
from lanner.models.views import FilterView
from lanner.training.weights import choose_weights

NUM_ITEMS, NUM_USERS = 40, 60


@pytest.fixture
def world():
    """One view whose vectors know the answers and one that is noise, each user asked for two items."""
    random = np.random.default_rng(0)
    taste = torch.from_numpy(random.standard_normal((NUM_ITEMS, 6)).astype(np.float32))
    noise = torch.from_numpy(random.standard_normal((NUM_ITEMS, 6)).astype(np.float32)) * 3
    history = random.integers(NUM_ITEMS, size=(NUM_USERS, 3))
    liked = np.argsort(-(taste[history].mean(1) @ taste.T).numpy(), axis=1)
    positives = [[item for item in row if item not in seen][:2] for row, seen in zip(liked, history, strict=True)]
    seen = Ragged.from_lists([sorted(set(row)) for row in history.tolist()])
    held_out = HeldOut(np.arange(NUM_USERS), UserBatch(seen), Ragged.from_lists(positives), seen)
    views = {"graph": FilterView(noise, noise), "filter": FilterView(taste, taste)}
    network = RecommenderNetwork(views, ConcatFusion([6, 6]), np.ones(NUM_ITEMS, np.int64), NUM_USERS, 3, None)
    return network, held_out


def test_the_view_that_knows_is_trusted_over_noise(world):
    network, held_out = world
    quality = choose_weights(network, held_out)
    graph, closed_form = network.fusion.get_buffer("weights")[0].tolist()
    assert closed_form > 4 * graph
    assert quality > 0.7


def test_the_search_forgets_earlier_weights(world):
    network, held_out = world
    first = choose_weights(network, held_out)
    found = network.fusion.get_buffer("weights").clone()
    network.fusion.get_buffer("weights").fill_(7)
    assert choose_weights(network, held_out) == first
    assert torch.equal(network.fusion.get_buffer("weights"), found)
