"""The network: unseen items borrow from items with similar texts, and blocks change nothing."""

import numpy as np
import pytest
import torch
from random_events import random_events
from stand_ins import encode_words

from lanner.graph.adjacency import Adjacency
from lanner.models import network as network_module
from lanner.models.fusion import ConcatFusion
from lanner.models.linear import training_matrix
from lanner.models.network import RecommenderNetwork
from lanner.models.views import FilterView, GraphView, LanguageView

DATASET, MET = random_events()
NUM_USERS, NUM_ITEMS = MET.shape
COLD = NUM_ITEMS - 1
WORDLESS = 2
NEIGHBOURS = 4


def texts() -> np.ndarray:
    features = encode_words([f"w{row % 4} x{row % 3} y{row % 5}" for row in range(NUM_ITEMS)])
    features[WORDLESS] = 0
    return features


def build(*names: str, neighbours: int = NEIGHBOURS, features: np.ndarray | None = None) -> RecommenderNetwork:
    torch.manual_seed(0)
    edges, features = Adjacency.from_pattern(training_matrix(DATASET)), texts() if features is None else features
    views = {
        "graph": GraphView(edges, 6, 1, False),
        "filter": FilterView.fit(edges, 5, 10.0),
        "language": LanguageView(torch.from_numpy(features), 6, 0.5, False),
    }
    chosen = {name: views[name] for name in names}
    sizes = [view.tables().source_ID.shape[1] for view in chosen.values()]
    network = RecommenderNetwork(chosen, ConcatFusion(sizes), edges.column_degrees, NUM_USERS, neighbours, None)
    if "language" in names:
        network.find_lenders(features)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def borrowed(table: torch.Tensor, item: int, features: np.ndarray) -> np.ndarray:
    """The slow twin: a ridge regression of the table on the texts of the nearest items that somebody met."""
    warm = [row for row in range(NUM_ITEMS) if MET[:, row].any() and row != item]
    cosines = np.array([features[item] @ features[row] for row in warm])
    nearest = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
    near, width = features[np.array(warm)[nearest]], features.shape[1]
    known = table.detach().numpy()[np.array(warm)[nearest]]
    weights = np.linalg.solve(near.T @ near + 3 * np.eye(width), near.T @ known)
    return features[item] @ weights


def test_an_item_nobody_met_borrows_from_its_neighbours_in_text():
    network, features = build("graph", "filter", "language"), texts()
    side = network.item_side()
    assert side.is_cold_I.tolist() == [row == COLD for row in range(NUM_ITEMS)]
    for place, name in enumerate(("graph", "filter")):
        tables = network.views[name].tables()
        for part in ("source_ID", "target_ID", "bias_I"):
            found, raw = getattr(side.own[place], part).numpy(), getattr(tables, part)
            np.testing.assert_allclose(found[COLD], borrowed(raw, COLD, features), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(found[:COLD], raw.detach().numpy()[:COLD])
            lent = getattr(side.borrowed[place], part).numpy()
            np.testing.assert_allclose(lent[5], borrowed(raw, 5, features), rtol=1e-4, atol=1e-5)
    reading = network.views["language"].tables()
    torch.testing.assert_close(side.own[2].target_ID, reading.target_ID)


def test_a_wordless_item_that_nobody_met_still_has_an_answer():
    features = texts()
    features[COLD] = 0
    network = build("graph", "language", features=features)
    scores = network.score(DATASET.user_batch(), network.item_side())
    assert np.isfinite(scores).all()


def test_more_neighbours_than_items_change_nothing():
    every = NUM_ITEMS - 1  # all that were met
    wide, exact = build("graph", "language", neighbours=500), build("graph", "language", neighbours=every)
    torch.testing.assert_close(wide.item_side().own[0].target_ID, exact.item_side().own[0].target_ID)
    torch.testing.assert_close(wide.item_side().borrowed[0].target_ID, exact.item_side().borrowed[0].target_ID)


def test_without_texts_nothing_is_borrowed():
    network = build("graph", "filter")
    side = network.item_side()
    assert not side.is_cold_I.any()
    torch.testing.assert_close(side.own[0].target_ID, network.views["graph"].tables().target_ID)


def test_items_can_be_seen_as_if_new():
    side = build("graph", "language").item_side()
    columns, pretend = torch.tensor([3, COLD, 8]), torch.tensor([True, False, False])
    tables, is_cold = side.take(columns, pretend)
    assert is_cold.tolist() == [True, True, False]
    torch.testing.assert_close(tables[0].target_ID[0], side.borrowed[0].target_ID[3])
    torch.testing.assert_close(tables[0].target_ID[1:], side.own[0].target_ID[[COLD, 8]])
    plain, is_cold = side.take(columns)
    assert is_cold.tolist() == [False, True, False]
    torch.testing.assert_close(plain[0].target_ID, side.own[0].target_ID[columns])


def test_items_are_the_same_whether_or_not_training_has_just_been():
    network = build("graph", "language").train()
    first = network.item_side()
    torch.testing.assert_close(network.train().item_side().own[1].target_ID, first.own[1].target_ID)


@pytest.mark.parametrize("pair_bytes", [1, 256 * NUM_ITEMS * 7])
def test_blocks_of_users_change_nothing(monkeypatch, pair_bytes):
    network = build("graph", "filter", "language")
    side = network.item_side()
    whole = network.score(DATASET.user_batch(), side)
    monkeypatch.setattr(network_module, "_PAIR_BYTES", pair_bytes)
    np.testing.assert_allclose(network.score(DATASET.user_batch(), side), whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == MET.shape
    assert whole.dtype == np.float32
