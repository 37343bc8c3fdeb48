"""The relational view: which relations there are, what a message is, and that each is learned about."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import NUM_ITEMS, small_world

from lanner.data.catalogue import Attribute
from lanner.data.interactions import Interactions
from lanner.data.ragged import Ragged
from lanner.graph.adjacency import Adjacency
from lanner.models.linear import training_matrix
from lanner.models.relational import RelationalView, item_relations


def with_attributes():
    world = small_world(ties=False)
    genres = Attribute(("a", "b", "rare"), Ragged.from_lists([[row % 2] for row in range(NUM_ITEMS - 1)] + [[2]]))
    everywhere = Attribute(("all",), Ragged.from_lists([[0]] * NUM_ITEMS))
    empty = Attribute((), Ragged.empty(NUM_ITEMS))
    attributes = {"genres": genres, "all": everywhere, "empty": empty}
    return replace(world, item_catalogue=replace(world.item_catalogue, attributes=attributes))


def view_of(dataset, features=None, layers=1) -> RelationalView:
    torch.manual_seed(0)
    edges = Adjacency.from_pattern(training_matrix(dataset))
    return RelationalView(edges, item_relations(dataset), features, 4, layers, False, dataset.user_catalogue).eval()


def test_there_is_a_relation_for_each_behaviour_and_each_attribute_that_tells_items_apart():
    dataset = with_attributes()
    events = dataset.interactions
    behaviour = (np.arange(len(events)) % 2).astype(np.uint8)
    two = Interactions(events.user, events.item, behaviour=behaviour, behaviours=("view", "buy"))
    found = item_relations(dataset.with_interactions(two))
    assert list(found) == ["view", "buy", "genres"]
    # A value of one item joins nothing.
    assert found["genres"].num_edges == NUM_ITEMS - 1


def test_negative_feedback_joins_nothing():
    dataset = with_attributes()
    events = replace(dataset.interactions, confidence=np.zeros(len(dataset.interactions), np.float32))
    assert list(item_relations(dataset.with_interactions(events))) == ["genres"]


def test_a_message_is_what_the_equation_says():
    view = view_of(with_attributes())
    with torch.no_grad():
        view.trust.copy_(torch.tensor([0.3, -0.2]))
        view.transforms.mul_(torch.tensor([[1.0, 2, 3, 4], [0.5, 1, 1, 2]]))
    start = view.vectors.detach().numpy()
    shares = np.exp([0.3, -0.2]) / np.exp([0.3, -0.2]).sum()
    total = start.copy()
    for place, relation in enumerate(item_relations(with_attributes()).values()):
        dense = relation.normalised("symmetric").dense()
        total += shares[place] * dense @ dense.T @ (start * view.transforms.detach().numpy()[place])
    np.testing.assert_allclose(view.tables().target_ID.detach().numpy(), total / 2, rtol=1e-4, atol=1e-5)
    assert view.relation_weights == pytest.approx({"interaction": shares[0], "genres": shares[1]})


def test_texts_are_part_of_what_an_item_starts_from():
    features = torch.randn(NUM_ITEMS, 5, generator=torch.Generator().manual_seed(1))
    dataset = with_attributes()
    with_text, without = view_of(dataset, features).tables(), view_of(dataset).tables()
    assert not torch.allclose(with_text.target_ID, without.target_ID)


def test_every_relation_is_learned_about():
    view = view_of(with_attributes(), torch.ones(NUM_ITEMS, 5))
    view.tables().target_ID.square().sum().backward()
    for parameter in (view.vectors, view.trust, view.transforms, view.from_text.weight):
        assert parameter.grad.abs().sum() > 0


def test_without_relations_or_layers_an_item_is_its_own_vector():
    world = small_world(ties=False)
    alone = world.with_interactions(world.interactions.take(np.arange(1)))
    view = view_of(alone)
    assert item_relations(alone) == {}
    assert torch.equal(view.tables().target_ID, view.vectors)
