"""The hybrid: the parts of its sum, the effect of text, new items, and bad data."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from stand_ins import COLD, ITEMS_PER_GROUP, NUM_ITEMS, NUM_USERS, small_world

from lanner.compression.reduce import fewer_dimensions
from lanner.compression.steps import quantised, sample_of_users
from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions, UserBatch
from lanner.data.ragged import Ragged
from lanner.data.splitting import random_ratio
from lanner.errors import ConfigError
from lanner.inference.cold_start import ItemReader
from lanner.inference.ranker import Query, Ranker
from lanner.models.hybrid.config import HybridConfig
from lanner.models.hybrid.model import CLOSED, PROFILE, Choice, HybridRecommender
from lanner.models.hybrid.parts import KINDS
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training.joining import Joiner
from lanner.training.loop import Trainer, TrainingConfig

pytestmark = pytest.mark.usefixtures("hashed_words")

SMALL = NeuralConfig(fusion="sum", dimensions=6, language_dimensions=6, word_dimensions=6, cold_neighbours=3)
TRAINING = TrainingConfig(epochs=4, batch_users=12, learning_rate=0.02, device="cpu")


def unfitted(**changes) -> HybridRecommender:
    config = HybridConfig(**{"neighbours": 8, "text_neighbours": 4, "rank": 4} | changes)
    return HybridRecommender(config, NeuralRecommender(SMALL, Trainer(TRAINING, progress=False)), Joiner(False))


def chosen(material, config, views, validation) -> Choice:
    """A joiner that has made up its mind: the ridge and the language view, whatever validation says."""
    return Choice(
        {"ridge": KINDS["ridge"].start}, {"ridge": 1.0, "language": 0.5}, {CLOSED: 0.5, "language": 0.5}, 0.1, 0
    )


def decided() -> HybridRecommender:
    network = NeuralRecommender(SMALL, Trainer(TRAINING, progress=False))
    return HybridRecommender(HybridConfig(neighbours=8, text_neighbours=4, rank=4), network, chosen)


@pytest.fixture(scope="module")
def world() -> Dataset:
    return small_world()


@pytest.fixture(scope="module")
def hybrid(world, hashed_words) -> HybridRecommender:
    return unfitted().fit(world)


@pytest.fixture(scope="module")
def hybrid_without_profiles(hashed_words) -> HybridRecommender:
    return unfitted().fit(small_world(profiles=False))


def group_of(items) -> list[int]:
    return (np.asarray(items) // ITEMS_PER_GROUP).tolist()


def test_reasons_add_up_to_the_score(hybrid, world):
    explained = hybrid.explain(world.user_batch(np.array([3])), 5)
    assert explained.score == pytest.approx(float(hybrid.score(world.user_batch(np.array([3])))[0, 5]), rel=1e-3)
    assert sum(part.value for part in explained.parts) == pytest.approx(explained.score, rel=1e-4)


@pytest.mark.parametrize("form", ["full", "int8", "fewer dimensions"])
def test_a_text_finds_items_that_read_like_it_in_every_form(hybrid, world, form):
    model = hybrid.scoring_model
    if form == "int8":
        model = quantised(model)
    if form == "fewer dimensions":
        sought = hybrid.item_reader.texts.features(np.arange(NUM_ITEMS))
        profiles = hybrid.reader.features(world.user_catalogue.texts)
        users = sample_of_users(model, world.user_batch(), profiles, sought)
        model = fewer_dimensions(model, users, model.dimensions - 4)
    ranker = Ranker(model, reader=hybrid.reader)
    for kind in range(3):
        found = ranker.rank([Query(text=f"kind{kind} sort", k=5, explain=True)])[0]
        assert group_of(found.items) == [kind] * 5
        assert not found.fallback
        assert found.explanations[0].parts[0].kind == "query"


@pytest.mark.parametrize("has_profiles", [True, False])
def test_a_profile_alone_finds_items_that_read_like_it(has_profiles, hashed_words):
    model = unfitted(parts=("ridge", "popularity")).fit(small_world(profiles=has_profiles))
    assert (PROFILE in model.choice.weights) == has_profiles
    ranker = Ranker(model.scoring_model, reader=model.reader)
    for kind in range(3):
        found = ranker.rank([Query(profile=f"likes kind{kind}", k=5, explain=True)])[0]
        assert group_of(found.items) == [kind] * 5
        assert not found.fallback
        assert found.explanations[0].parts[0].kind == "profile"


def test_what_each_relation_learned_is_stored_with_the_model(world):
    def trusting(*given) -> Choice:
        return Choice({"ridge": KINDS["ridge"].start}, {"ridge": 1.0, "relational": 0.5}, {}, 0.0, 0)

    network = NeuralRecommender(SMALL, Trainer(TRAINING, progress=False))
    model = HybridRecommender(HybridConfig(neighbours=8, text_neighbours=4, rank=4), network, trusting).fit(world)
    assert sum(model.relations["items"].values()) == pytest.approx(1)
    assert list(model.relations["users"]) == ["friends"]
    assert model.state()[1]["network"]["relations"] == model.relations
    assert unfitted(parts=("ridge",)).fit(world).relations == {}, "the view is not served"


@pytest.mark.parametrize(("own", "other", "k"), [(1, 0, 2), (1, 2, 1), (2, 0, 1), (2, 1, 2)])
def test_a_profile_weighs_less_than_a_history_and_a_text_more(hybrid_without_profiles, own, other, k):
    """Without group 0, whose history alone finds group 2 nearly as good."""
    history = own * ITEMS_PER_GROUP + np.arange(ITEMS_PER_GROUP - 2)
    ranker, words = hybrid_without_profiles.ranker, f"kind{other} sort"
    asked = Query(history, seen=history, k=k)
    for told, group in ((replace(asked, profile=words), own), (replace(asked, text=words), other)):
        assert group_of(ranker.rank([told])[0].items) == [group] * k


def test_a_text_counts_beside_a_long_history(hybrid):
    history = np.arange(ITEMS_PER_GROUP)
    ranker = hybrid.ranker
    assert group_of(ranker.rank([Query(history, seen=history, text="kind2 sort", k=4)])[0].items) == [2] * 4


def test_an_item_that_nobody_met_borrows_and_is_found_by_its_own(hybrid):
    own = NUM_ITEMS // ITEMS_PER_GROUP - 1
    history = own * ITEMS_PER_GROUP + np.arange(ITEMS_PER_GROUP - 1)
    assert hybrid.ranker.rank([Query(history, seen=history, k=1)])[0].items.tolist() == [COLD]


def test_an_item_added_later_is_ranked_as_one_of_its_kind(hybrid):
    ranker = Ranker(hybrid.scoring_model, reader=hybrid.reader)
    features = hybrid.reader.features(["name99 maker1\nkind1 sort"])
    ranker.available.grow(NUM_ITEMS + 1)
    (row,) = ranker.add(hybrid.item_reader.read(hybrid.scoring_model, features, [None]))
    ranker.available.show(np.array([row]))
    scores = {}
    for kind in range(3):
        history = kind * ITEMS_PER_GROUP + np.arange(4)
        found = ranker.rank([Query(history, k=NUM_ITEMS + 1)])[0]
        scores[kind] = float(found.scores[found.items.tolist().index(row)])
    assert scores[1] > max(scores[0], scores[2])


@pytest.mark.parametrize("known", [None, 3])
def test_a_text_matches_an_item_added_or_changed_later_as_one_of_the_catalogue_with_the_same_text(hybrid, world, known):
    model = hybrid.scoring_model
    assert model.view_names[-1] == "meaning"
    reader = ItemReader.from_arrays(hybrid.item_reader.arrays(), hybrid.item_reader.facts)
    rows = np.array([0, 7, COLD])
    features_NF = hybrid.reader.features([world.item_catalogue.texts[row] for row in rows])
    later = slice(-model.view_sizes[-1], None)
    read_ND = reader.read(model, features_NF, [known] * len(rows)).target_ND
    assert np.abs(model.target_ID[rows, later]).max() > 0.01
    assert read_ND[:, later] == pytest.approx(model.target_ID[rows, later], abs=1e-4)


def test_closed_forms_know_the_validation_events_and_the_copy_for_compression_does_not(world):
    split = random_ratio(world, 0.2, 0.2, seed=1)
    model = decided().fit(split.train, split.validation)
    known, unaware = model.scoring_model.item_to_item, model.unaware().scoring_model.item_to_item
    assert np.abs(known.matrix() - unaware.matrix()).max() > 0
    assert model.unaware().choice == model.choice


def test_an_update_solves_the_closed_forms_anew_and_trains_nothing(world):
    before = world.with_interactions(world.interactions.take(np.arange(len(world.interactions)) % 5 > 0))
    split = random_ratio(before, 0.3, 0.0, seed=1)
    model = decided().fit(split.train, split.test)
    trained = {name: value.clone() for name, value in model._network.network.state_dict().items()}
    old, choice = model.scoring_model, model.choice
    model.update(world)
    assert all((value == trained[name]).all() for name, value in model._network.network.state_dict().items())
    assert model.choice is choice
    assert model.scoring_model.popularity_I.sum() > old.popularity_I.sum()
    assert np.abs(model.scoring_model.item_to_item.matrix() - old.item_to_item.matrix()).max() > 0


def updated_from(before: Dataset, world: Dataset, growth: float) -> tuple[HybridRecommender, HybridRecommender]:
    """A hybrid of all closed forms after an update, beside the same solved for all items."""

    def all_closed(material, config, views, validation) -> Choice:
        names = [name for name, kind in KINDS.items() if name in config.parts and kind.suits(material, config)]
        settings = {name: KINDS[name].start for name in names}
        return Choice(settings, dict.fromkeys([*names, "language"], 1.0), {CLOSED: 0.5, "language": 0.5}, 0.0, 0)

    def fitted() -> HybridRecommender:
        network = NeuralRecommender(SMALL, Trainer(TRAINING, progress=False))
        config = HybridConfig(parts=("ridge", "dense-ridge", "order", "text"), neighbours=8, growth=growth)
        return HybridRecommender(config, network, all_closed).fit(before)

    other = fitted()
    other._solved_I[:] = 0
    return fitted().update(world), other.update(world)


def test_an_update_solves_what_has_grown_and_leaves_the_rest(world):
    """Only users of the first group meet something new."""
    events = world.interactions
    is_new = (events.user < NUM_USERS // 3) & (np.arange(len(events)) % 3 == 0)
    before = world.with_interactions(events.take(~is_new))
    updated, anew = updated_from(before, world, 0.05)
    untouched = np.arange(2 * ITEMS_PER_GROUP, NUM_ITEMS)
    one, other = (model.scoring_model.item_to_item.matrix().toarray() for model in (updated, anew))
    grown = np.unique(events.item[is_new])
    assert 0 < len(grown) < 0.7 * NUM_ITEMS
    np.testing.assert_allclose(one[:, grown], other[:, grown], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(updated._solved_I, np.bincount(events.item, minlength=NUM_ITEMS))
    assert np.abs(one[:, untouched] - other[:, untouched]).max() > 0  # weights of users are relative to the mean


def test_an_update_that_is_told_to_wait_solves_new_items_alone(world):
    last = NUM_ITEMS - 2
    kept = world.interactions.take(world.interactions.item < last)
    names = world.items.external[:last]
    catalogue = Catalogue(world.item_catalogue.texts[:last], names)
    before = replace(world, interactions=kept, items=IdMap(names), item_catalogue=catalogue)
    updated, anew = updated_from(before, world, 9.0)
    one, other = (model.scoring_model.item_to_item.matrix().toarray() for model in (updated, anew))
    np.testing.assert_allclose(one[:, last], other[:, last], rtol=1e-3, atol=1e-4)
    assert np.abs(one[:, COLD]).max() > 0, "nobody met it, and it borrows"
    assert np.abs(one[:, :last] - other[:, :last]).max() > 0.01
    arrays, settings = updated.state()
    again = HybridRecommender().load_state(arrays, settings, world)
    np.testing.assert_array_equal(again._solved_I, updated._solved_I)


def test_a_view_that_weighs_nothing_is_not_served(world):
    split = random_ratio(world, 0.3, 0.0, seed=1)
    model = decided().fit(split.train, split.test)
    assert model.scoring_model.view_names == ("language", "meaning")
    arrays, settings = model.state()
    again = HybridRecommender().load_state(arrays, settings, split.train)
    np.testing.assert_array_equal(again.score(world.user_batch()), model.score(world.user_batch()))


def test_without_the_part_network_nothing_is_trained(world):
    def refuse(*given):
        raise AssertionError("trained")

    network = NeuralRecommender(SMALL, refuse)
    model = HybridRecommender(HybridConfig(parts=("ridge", "popularity"), neighbours=8), network, Joiner(False))
    model.fit(world)
    assert set(model.choice.weights) <= {"ridge", "popularity", PROFILE}
    assert np.isfinite(model.score(world.user_batch())).all()


def with_people(dataset: Dataset, codes: list[list[int]], names: tuple[str, ...] = ("a", "b", "c")) -> Dataset:
    attributes = {"kind": Attribute(names, Ragged.from_lists(codes)), "none": Attribute((), Ragged.empty(NUM_USERS))}
    return replace(dataset, user_catalogue=replace(dataset.user_catalogue, attributes=attributes))


def told_apart(world: Dataset) -> Dataset:
    """Each user's attribute names the group of most of the items in the history; the last user has none."""
    groups = [
        int(np.bincount(items // ITEMS_PER_GROUP).argmax())
        for items in map(world.histories.__getitem__, range(NUM_USERS))
    ]
    return with_people(world, [[group] for group in groups[:-1]] + [[]])


def test_attributes_of_a_stranger_act_and_so_they_do_after_loading(world):
    dataset = told_apart(world)
    model = unfitted(parts=("softmax", "popularity", "network")).fit(dataset)
    arrays, settings = model.state()
    again = HybridRecommender().load_state(arrays, settings, dataset)
    strangers = UserBatch(Ragged.empty(4), attributes=Ragged.from_lists([[0], [1], [2], []]))
    assert model.scoring_model.kind_A.tolist() == [0, 0, 0]
    for one in (model, again):
        # Of each stranger, rows, by the group of the items.
        scores_KK = one.score(strangers.take(np.arange(3))).reshape(3, 3, ITEMS_PER_GROUP).mean(axis=2)
        assert (scores_KK.argmax(axis=0) == np.arange(3)).all()
        explained = one.explain(strangers.take(np.array([1])), ITEMS_PER_GROUP)
        assert max(part.value for part in explained.parts if part.kind == "attributes") > 0
        assert sum(part.value for part in explained.parts) == pytest.approx(explained.score, rel=1e-4)
    np.testing.assert_array_equal(model.score(dataset.user_batch()), again.score(dataset.user_batch()))


def test_the_sum_over_a_history_is_served_as_it_was_weighed(world):
    def summed(material, config, views, validation) -> Choice:
        return Choice({"softmax": KINDS["softmax"].start}, {"softmax": 1.0}, {}, 0.0, 0, sums=True)

    dataset = told_apart(world)
    network = NeuralRecommender(SMALL, Trainer(TRAINING, progress=False))
    model = HybridRecommender(HybridConfig(), network, summed).fit(dataset, random_ratio(dataset, 0.3, 0.0).test)
    part, exported = model._closed_sum, model.scoring_model
    users = dataset.user_batch()
    known = exported.shares(users)
    assert known.shape[1] == part.items.shape[0] == NUM_ITEMS + 3 + 3 * NUM_ITEMS
    assert known[0, :NUM_ITEMS].sum() == len(np.unique(users.history[0]))
    without = replace(exported, item_to_item=None).score(users)
    np.testing.assert_allclose(exported.score(users) - without, known @ part.items.toarray(), atol=1e-4)


def test_without_a_joiner_it_is_for_loading_only(world):
    with pytest.raises(ConfigError, match="joiner"):
        HybridRecommender().fit(world)


@pytest.mark.parametrize("wrong", [{"parts": ()}, {"parts": ("ridge", "ridge")}, {"neighbours": 0}, {"rank": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"hybrid.{next(iter(wrong))}"):
        HybridConfig(**wrong)


def with_texts(dataset: Dataset, *texts: str) -> Dataset:
    given = tuple(texts[row % len(texts)] for row in range(dataset.num_items))
    return replace(dataset, item_catalogue=replace(dataset.item_catalogue, texts=given))


def with_events(dataset: Dataset, user: np.ndarray, item: np.ndarray) -> Dataset:
    return dataset.with_interactions(Interactions(user.astype(np.int32), item.astype(np.int32)))


def with_edges(world: Dataset) -> Dataset:
    """Its events with ties and links, half of them to ids that nobody knows."""
    events = {"user_id": world.users.ids(world.interactions.user), "item_id": world.items.ids(world.interactions.item)}
    items = {"item_id": world.item_ids, "text": world.item_catalogue.texts}
    made = Dataset.from_frames(
        pl.DataFrame(events),
        items=pl.DataFrame(items),
        ties=pl.DataFrame({"user_id": ["u0", "u1"], "friend": ["u1", "stranger"]}),
        links=pl.DataFrame({"item_id": ["i0", "i1"], "related": ["i1", "unheard of"]}),
        text="text",
    )
    assert made.rejected.items() >= {"tie to an unknown user": 1, "link to an unknown item": 1}.items()
    return made


def odd(name: str) -> Dataset:
    world = small_world()
    user, item = world.interactions.user, world.interactions.item
    random = np.random.default_rng(0)
    match name:
        case "a relation without edges":
            none = Attribute(("never",), Ragged.empty(NUM_ITEMS))
            return replace(world, item_catalogue=replace(world.item_catalogue, attributes={"brand": none}))
        case "attributes of users without edges":
            return with_people(world, [[]] * NUM_USERS, ())
        case "an attribute that everybody has":
            return with_people(world, [[0]] * NUM_USERS, ("all",))
        case "nobody has friends":
            return replace(world, ties=Ragged.empty(NUM_USERS))
        case "ties to unknown users, and links to unknown items":
            return with_edges(world)
        case "texts all alike":
            return with_texts(world, "the same\nwords")
        case "texts of one letter and of 100,000":
            return with_texts(world, "a\nb", "long words " * 9_000 + "\nend", "\n")
        case "texts in other scripts":
            return with_texts(world, "映画 東京\nドラマ", "фильм\nдрама", "فيلم\nدراما")
        case "a user with 50,000 events":
            many = random.integers(NUM_ITEMS - 1, size=50_000)
            return with_events(world, np.append(user, np.zeros(50_000)), np.append(item, many))
        case "an item that everyone has":
            return with_events(world, np.append(user, np.arange(NUM_USERS)), np.append(item, np.full(NUM_USERS, 4)))
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "a relation without edges",
        "attributes of users without edges",
        "an attribute that everybody has",
        "nobody has friends",
        "ties to unknown users, and links to unknown items",
        "texts all alike",
        "texts of one letter and of 100,000",
        "texts in other scripts",
        "a user with 50,000 events",
        "an item that everyone has",
    ],
)
def test_odd_data_trains_and_scores_without_nan(name):
    dataset = odd(name)
    model = unfitted().fit(dataset)
    assert np.isfinite(model.score(dataset.user_batch())).all()
    assert np.isfinite(model.score(UserBatch(Ragged.from_lists([[0, 3], []])))).all()
    text = model.reader.features(["anything 東京"])
    assert np.isfinite(model.scoring_model.score(UserBatch(Ragged.from_lists([[1]])), None, text)).all()
