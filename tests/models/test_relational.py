"""The relational view: its relations, its messages, and that each relation is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import NUM_ITEMS, NUM_USERS, small_world

from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.splitting import random_ratio
from lanner.graph.adjacency import Adjacency
from lanner.models import views
from lanner.models.linear import training_matrix
from lanner.models.neural import NeuralRecommender
from lanner.models.neural_config import NeuralConfig
from lanner.models.relational import RelationalView
from lanner.models.relations import FRIENDS, LINKS, item_relations
from lanner.models.views import UserInputs
from lanner.training.loop import Trainer, TrainingConfig


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
    people = dataset.user_catalogue
    return RelationalView(edges, item_relations(dataset), features, 4, layers, has_friends=False, people=people).eval()


def test_there_is_a_relation_for_each_behaviour_and_each_attribute_that_tells_items_apart():
    dataset = with_attributes()
    events = dataset.interactions
    behaviour = (np.arange(len(events)) % 2).astype(np.uint8)
    two = Interactions(events.user, events.item, behaviour=behaviour, behaviours=("view", "buy"))
    found = item_relations(dataset.with_interactions(two))
    assert list(found) == ["view", "buy", "genres"]
    # A value of one item joins nothing.
    assert found["genres"].num_edges == NUM_ITEMS - 1


def test_linked_items_are_a_relation_whichever_end_names_the_other():
    pairs = [[1], [0, 2], *[[]] * (NUM_ITEMS - 2)]
    dataset = replace(with_attributes(), links=Ragged.from_lists(pairs))
    found = item_relations(dataset)
    assert list(found) == ["interaction", "genres", LINKS]
    links = found[LINKS].steps[-1].dense()
    # Half of its own vector, and half of that of its neighbours, by the root of both degrees.
    wanted = np.zeros((NUM_ITEMS, NUM_ITEMS))
    wanted[:3, :3] = [[0.5, 0.5 / 2**0.5, 0], [0.5 / 2**0.5, 0.5, 0.5 / 2**0.5], [0, 0.5 / 2**0.5, 0.5]]
    np.testing.assert_allclose(links @ links.T, wanted, atol=1e-6)
    assert not torch.allclose(view_of(dataset).tables().target_ID, view_of(with_attributes()).tables().target_ID)


def test_no_links_are_no_relation():
    assert LINKS not in item_relations(replace(with_attributes(), links=Ragged.empty(NUM_ITEMS)))


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
        dense = relation.steps[-1].dense()
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


def with_people():
    """Users with two values of an attribute, with one that everybody has, that one user has, and with none."""
    world = small_world(ties=False)
    attributes = {
        "two": Attribute(("a", "b"), Ragged.from_lists([[0, 1]] * (NUM_USERS - 1) + [[]])),
        "all": Attribute(("everybody",), Ragged.from_lists([[0]] * NUM_USERS)),
        "alone": Attribute(("rare",), Ragged.from_lists([[]] * (NUM_USERS - 1) + [[0]])),
        "empty": Attribute((), Ragged.empty(NUM_USERS)),
    }
    return replace(world, user_catalogue=replace(world.user_catalogue, attributes=attributes))


def test_users_bring_what_their_attributes_say():
    dataset = with_people()
    view, kinds = view_of(dataset), dataset.user_catalogue.kinds
    with torch.no_grad():
        view.values.copy_(torch.arange(16).reshape(4, 4))
        view.attribute_trust.copy_(torch.tensor([0.5, 2.0, 1.0, 1.0]))
    tables = view.tables()
    lists = Ragged.from_lists([[3, 5], [3, 5], [3, 5]])
    users = UserBatch(lists, attributes=Ragged.from_lists([[0, 1, 2], [1, 3], []]))
    vectors = view.user_vectors(UserInputs.of(users, NUM_ITEMS, NUM_USERS, None, kinds), tables)
    plain = view.user_vectors(UserInputs.of(replace(users, attributes=None), NUM_ITEMS, NUM_USERS), tables)
    values = np.arange(16).reshape(4, 4)
    wanted = [0.5 * values[:2].mean(axis=0) + 2 * values[2], 0.5 * values[1], np.zeros(4)]
    np.testing.assert_allclose((vectors - plain).detach().numpy(), wanted, atol=1e-5)
    weights = view.attribute_weights
    assert weights["alone"] == weights["empty"] == 0
    assert weights["all"] == pytest.approx(2 * np.sqrt(np.square(values[2]).mean()))
    vectors.sum().backward()
    assert view.values.grad.abs().sum() > 0
    assert view.attribute_trust.grad.abs().sum() > 0


def test_what_was_learned_of_a_value_is_taken_over_by_its_name():
    before, dataset = view_of(with_people()), with_people()
    two = Attribute(("new", "a", "b"), Ragged.from_lists([[1, 2]] * (NUM_USERS - 1) + [[0]]))
    attributes = {"later": two} | dataset.user_catalogue.attributes | {"two": two}
    after = view_of(replace(dataset, user_catalogue=replace(dataset.user_catalogue, attributes=attributes)))
    with torch.no_grad():
        before.values.copy_(torch.arange(16).reshape(4, 4))
        before.attribute_trust.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    after.take_over(before, torch.ones(NUM_ITEMS, dtype=torch.bool))
    assert after.values[:, 0].tolist() == [0, 0, 0, 0, 0, 4, 8, 12]
    assert after.attribute_trust.tolist() == pytest.approx([0.5, 0.1, 0.2, 0.3, 0.4])


def scaled(counts):
    """Each entry divided by the root of the sums of its row and of its column."""
    rows, columns = (np.maximum(counts.sum(axis=axis, keepdims=True), 1) for axis in (1, 0))
    return counts / np.sqrt(rows * columns)


def chosen_by(dataset):
    return training_matrix(dataset).toarray()


def message_of(relation) -> np.ndarray:
    return relation.messages(torch.eye(NUM_ITEMS)).numpy()


def test_friends_join_the_items_they_chose():
    world = small_world()
    relation, chosen = item_relations(world)[FRIENDS], chosen_by(world)
    ties = np.zeros((NUM_USERS, NUM_USERS))
    ties[world.ties.row_of_value, world.ties.values] = 1
    ties = np.maximum(ties, ties.T)
    to_items = scaled((chosen * (ties.sum(axis=1) > 0)[:, None]).T)
    np.testing.assert_allclose(message_of(relation), to_items @ scaled(ties) @ to_items.T, atol=1e-6)
    # Nothing as large as items × items, nor as users × items where there is no event.
    assert max(one.num_edges for one in relation.steps) <= max(chosen.sum(), ties.sum())


def test_a_tie_counts_once_whoever_names_it_and_not_to_oneself_or_to_a_user_without_events():
    world = small_world(ties=False)
    events = world.interactions
    world = world.with_interactions(events.take(events.user != 3))

    def joined(lists):
        ties = Ragged.from_lists([*lists, *[[]] * (NUM_USERS - len(lists))])
        return item_relations(replace(world, ties=ties)).get(FRIENDS)

    once = message_of(joined([[1], [2]]))
    np.testing.assert_array_equal(message_of(joined([[1, 0, 3], [0, 2], [], [0]])), once)
    assert joined([[0, 3], [], [], [1]]) is None
    assert joined([]) is None


def test_users_who_share_a_value_join_the_items_they_chose():
    dataset = with_people()
    people = dataset.user_catalogue
    halves = Attribute(("a", "b", "c"), Ragged.from_lists([[row % 2] for row in range(NUM_USERS - 1)] + [[1, 2]]))
    people = replace(people, attributes=people.attributes | {"half": halves})
    found = item_relations(replace(dataset, user_catalogue=people))
    # Values of one user, of more than half of the users, or of nobody join nothing.
    assert list(found) == ["interaction", "half"]
    held = np.array([[row % 2 == 0, row % 2 == 1] for row in range(NUM_USERS)], float)
    counts = scaled(chosen_by(dataset).T @ held)
    np.testing.assert_allclose(message_of(found["half"]), counts @ counts.T, atol=1e-6)


def test_relations_of_users_and_of_items_may_share_a_name():
    world = with_attributes()
    genres = Attribute(("a", "b"), Ragged.from_lists([[row % 2] for row in range(NUM_USERS)]))
    items = replace(world.item_catalogue, attributes={FRIENDS: world.item_catalogue.attributes["genres"]})
    people = replace(world.user_catalogue, attributes={"interaction": genres, FRIENDS: genres})
    ties = Ragged.from_lists([[1], [0], *[[]] * (NUM_USERS - 2)])
    world = replace(world, item_catalogue=items, user_catalogue=people, ties=ties)
    wanted = ["interaction", FRIENDS, "friends (users)", "interaction (users)", "friends (users) (users)"]
    found = item_relations(world)
    assert list(found) == wanted
    assert len(found["friends (users)"].steps) == 3
    assert list(view_of(world).relation_weights) == wanted


def test_long_paths_start_with_little_trust():
    weights = view_of(small_world()).relation_weights
    assert weights[FRIENDS] == pytest.approx(np.exp(-2) * weights["interaction"])


def communities(ties_seed: int | None) -> Dataset:
    """Eight communities of items and of users, half of whom have one event, with ties within, or random ones."""
    random, count, own = np.random.default_rng(0), 96, 10
    group = np.arange(count) % 8
    events = [
        (user, item + own * group[user])
        for user in range(count)
        for item in random.choice(own, 1 if user % 16 >= 8 else 4, replace=False)
    ]
    tied = np.random.default_rng(ties_seed).permutation(count) if ties_seed is not None else np.arange(count)
    friends = [random.choice(np.flatnonzero(tied % 8 == tied[user] % 8), 4, replace=False) for user in range(count)]
    user, item = np.array(events, np.int32).T
    users, items = (IdMap([f"{kind}{row}" for row in range(size)]) for kind, size in (("u", count), ("i", 8 * own)))
    people, things = Catalogue.blank(users.external), Catalogue.blank(items.external)
    return Dataset(Interactions(user, item), users, items, things, people, ties=Ragged.from_lists(friends))


def learned(dataset: Dataset) -> NeuralRecommender:
    config = NeuralConfig(views=("relational",), fusion="sum", dimensions=16)
    training = TrainingConfig(epochs=15, batch_users=16, learning_rate=0.02)
    split = random_ratio(dataset, test=0.25, validation=0.0)
    return NeuralRecommender(config, Trainer(training, progress=False)).fit(split.train, split.test)


def test_friends_who_choose_alike_are_trusted_more_than_random_ones():
    share = learned(communities(None)).relations["items"][FRIENDS]
    by_chance = max(learned(communities(seed)).relations["items"][FRIENDS] for seed in (1, 2))
    assert share > 1.2 * by_chance


@pytest.mark.parametrize("users", [1, NUM_USERS])
def test_users_alone_and_ties_to_users_without_events_train_without_a_nan(users):
    world = small_world()
    kept = world.interactions.user < users
    sparse = world.with_interactions(world.interactions.take(kept & (world.interactions.user % 2 == 0)))
    model = learned(sparse)
    assert np.isfinite(model.score(sparse.user_batch())).all()
    assert all(np.isfinite(list(weights.values())).all() for weights in model.relations.values())


def everything(texts: bool = True, layers: int = 2):
    """A view with every kind of relation, with random parameters, and the inputs of some users."""
    world = small_world()
    halves = Attribute(("a", "b"), Ragged.from_lists([[row % 2] for row in range(NUM_USERS)]))
    people = replace(world.user_catalogue, attributes={"half": halves})
    world = replace(with_attributes(), ties=world.ties, user_catalogue=people)
    features = torch.randn(NUM_ITEMS, 5, generator=torch.Generator().manual_seed(1)) if texts else None
    view = view_of(world, features, layers)
    with torch.no_grad():
        view.friend_weight.requires_grad_(True).fill_(0.7)
        for parameter in (view.trust, view.transforms, view.values):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    users = world.user_batch(np.array([3, 8, 14, 22]))
    return view, UserInputs.of(users, NUM_ITEMS, NUM_USERS, None, people.kinds)


CANDIDATES = np.array([0, 5, 6, 21])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("texts", [False, True])
def test_sampling_all_neighbours_gives_the_whole_scores_and_gradients(texts, training):
    view, inputs = everything(texts)
    view.train(training)
    found = []
    for is_sampled in (False, True):
        torch.manual_seed(4)  # the dropout of IDs
        view.zero_grad()
        if is_sampled:
            part = view.part(inputs, CANDIDATES, 100, np.random.default_rng(0))
            tables, rows, given = part.tables, np.searchsorted(part.items, CANDIDATES), part.inputs
        else:
            tables, rows, given = view.tables(), CANDIDATES, inputs
        scores = view.user_vectors(given, tables) @ tables.target_ID[rows].T + tables.bias_I[rows]
        scores.square().sum().backward()
        found.append((scores.detach(), {name: one.grad.clone() for name, one in view.named_parameters()}))
    (whole, gradients), (sampled, of_sampled) = found
    torch.testing.assert_close(sampled, whole, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_sampled[name], gradient, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_mean_of_sampled_tables_and_users_is_that_of_the_whole():
    view, inputs = everything(layers=1)
    tables, random, draws = view.tables(), np.random.default_rng(0), 3000
    users, items = torch.zeros(4, 4), torch.zeros(len(CANDIDATES), 4)
    for _ in range(draws):
        part = view.part(inputs, CANDIDATES, 2, random)
        assert len(part.items) < NUM_ITEMS
        users += view.user_vectors(part.inputs, part.tables) / draws
        items += part.tables.target_ID[np.searchsorted(part.items, CANDIDATES)] / draws
    torch.testing.assert_close(users, view.user_vectors(inputs, tables), rtol=0, atol=0.03)
    torch.testing.assert_close(items, tables.target_ID[CANDIDATES], rtol=0, atol=0.03)


@torch.no_grad()
def test_blocks_of_dimensions_change_nothing(monkeypatch):
    view, _ = everything()
    whole = view.tables().target_ID
    monkeypatch.setattr(views, "_BLOCK_BYTES", 4 * NUM_ITEMS * 3)  # three dimensions, then one
    torch.testing.assert_close(view.tables().target_ID, whole)
