"""From settings to a bundle: checks before training, held-out data, and refit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import small_world

from lanner.config import EvaluationConfig, RunConfig, SplitConfig, from_dict
from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, MissingExtraError, StorageError
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.pipeline import open_bundle, run
from lanner.registry import SPLITS, planned
from lanner.training.config import CHECKPOINT
from lanner.training.loop import Loop, Trainer, TrainingConfig

NETWORK = NeuralConfig(views=("graph", "filter"), dimensions=4, filter_rank=4)
TRAINING = TrainingConfig(epochs=3, batch_users=12, learning_rate=0.02, device="cpu")


def timed(dataset: Dataset, times: np.ndarray) -> Dataset:
    return dataset.with_interactions(replace(dataset.interactions, timestamp=times.astype(np.int64)))


@pytest.fixture(scope="module")
def world() -> Dataset:
    return small_world(ties=False, profiles=False)


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> Path:
    rows = [f"u{u},i{i},{100 * u + i}" for u in range(12) for i in range(8) if (u * 3 + i * 5) % 7 < 4]
    path = tmp_path_factory.mktemp("data") / "events.csv"
    path.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    return path


def test_the_default_split_is_by_time_where_times_differ(world):
    count, config = len(world.interactions), RunConfig(model="ease")
    assert planned(config, world).config.split.name == "random"
    assert planned(config, timed(world, np.full(count, 7))).config.split.name == "random"
    users_in_turn = timed(world, np.where(world.interactions.user == 0, 9, 0))
    assert planned(config, users_in_turn).config.split.name == "global-time"
    only_repeats = world.with_interactions(world.interactions.take(np.tile(np.arange(count), 2)))
    nothing_new = timed(only_repeats, np.repeat([0, 1], count))
    assert planned(config, nothing_new).config.split.name == "random", "by time nothing is left to test"
    by_time = planned(config, timed(world, np.arange(count)))
    assert by_time.config.split.name == by_time.split.name == "global-time"
    chosen = planned(replace(config, split=SplitConfig("random")), timed(world, np.arange(count)))
    assert chosen.config.split.name == "random"
    assert (SPLITS["auto"](world, config.split).labels == SPLITS["random"](world, config.split).labels).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": {"name": "global-time"}}, "--split global-time needs timestamps that differ"),
        ({"split": {"name": "published"}}, "--split published needs a test part"),
        ({"split": {"test": 0.0}}, "to train on every event: lanner train, or lanner run --refit"),
        ({"split": {"validation": 0.0}, "model": "gnn"}, "split.validation=0 leaves 'gnn' nothing"),
        ({"evaluation": {"candidates": "sampled"}}, "evaluation.negatives=99 cannot be drawn from 24 items"),
        ({"evaluation": {"candidates": "rated"}}, "needs ratings, and the test events have none"),
        ({"model": "gnn", "training": {"device": "cuda"}}, "no CUDA device"),
        ({"model": "language"}, "use --model gnn-filter, or to give texts"),
        ({"neural": {"views": ["language"]}}, "use --model gnn-filter, or to give texts"),
        ({"model": "eas"}, "unknown model 'eas'"),
    ],
)
def test_what_cannot_work_is_found_before_training(world, settings, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    mute = replace(world, item_catalogue=Catalogue.blank(world.items.external))
    config = from_dict({"model": "hybrid", **settings})
    with pytest.raises(ConfigError) as error:
        planned(config, mute)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_split_by_order_needs_an_order(world):
    with pytest.raises(ConfigError, match="leave-last-out needs timestamps or an order column"):
        planned(RunConfig(split=SplitConfig("leave-last-out")), replace(world, has_order=False))


def test_leave_last_out_says_whom_it_leaves_out_and_how_to_keep_them(world):
    events = world.interactions
    first = [int(np.flatnonzero(events.user == user)[0]) for user in (0, 1)]
    again = np.concatenate([np.arange(len(events)), first])
    config = RunConfig(model="ease", split=SplitConfig("leave-last-out"))
    repeated = world.with_interactions(events.take(again))
    (note,) = planned(config, repeated).notes
    assert note.startswith("2 users are not evaluated")
    kept = planned(replace(config, split=replace(config.split, exclude="nothing")), repeated)
    assert kept.notes == ()
    assert len(kept.test) == len(planned(config, repeated).test) + 2


def test_ratings_that_no_test_user_gave(world):
    rated = replace(world.interactions, weight=np.full(len(world.interactions), 3, np.float32))
    with pytest.raises(ConfigError, match="no test user has an item rated 4 or more"):
        planned(
            RunConfig(model="ease", evaluation=EvaluationConfig(candidates="rated")), world.with_interactions(rated)
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"split": {"test": 1.0}},
        {"split": {"validation": -0.1}},
        {"evaluation": {"ks": []}},
        {"evaluation": {"ks": [0]}},
        {"evaluation": {"negatives": 0}},
        {"training": {"learning_rate": 0.0}},
        {"training": {"weight_decay": -1.0}},
        {"neural": {"feature_dropout": 1.0}},
        {"random": {"seed": -1}},
        {"ials": {"seed": -1}},
        {"graph_filter": {"seed": -1}},
        *(
            {section: {name: value}}
            for section, names in {
                "ease": ["regularisation"],
                "ials": ["regularisation", "alpha"],
                "item_knn": ["shrinkage"],
                "graph_filter": ["user_exponent", "popularity_exponent", "low_pass_weight", "low_pass_exponent"],
                "neural": ["filter_ridge", "feature_dropout"],
                "training": ["learning_rate", "fusion_learning_rate", "weight_decay", "hide"],
            }.items()
            for name in names
            for value in (math.inf, math.nan, 1e39)
        ),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings):
    (name,) = next(iter(settings.values()))
    with pytest.raises(ConfigError, match=name):
        from_dict(settings)


def test_missing_packages_are_found_before_training(world, monkeypatch):
    monkeypatch.setattr("lanner.registry.find_spec", lambda name: None)
    monkeypatch.setattr("lanner.models.language.find_spec", lambda name: None)
    for model, package in {"ials": "implicit", "hybrid": "transformers"}.items():
        with pytest.raises(MissingExtraError, match=package):
            planned(RunConfig(model=model), world)


def test_a_place_that_no_bundle_can_be_written_to_is_found_before_reading(tmp_path, monkeypatch):
    def never(_):
        pytest.fail("the dataset was read")

    monkeypatch.setattr("lanner.pipeline.load_dataset", never)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="holds something other than a bundle"):
        run(RunConfig(), tmp_path / "mine")
    with pytest.raises(StorageError, match=r"thesis\.txt: is a file, not a folder"):
        run(RunConfig(), tmp_path / "mine" / "thesis.txt")
    with pytest.raises(StorageError, match=r"thesis\.txt is not a writable folder"):
        run(RunConfig(), tmp_path / "mine" / "thesis.txt" / "bundle")


@pytest.mark.parametrize("model", ["ease", "gnn-filter"])
def test_with_no_split_and_after_a_refit_every_event_was_learned_from(model, events, tmp_path):
    settings = {"data": {"path": str(events)}, "model": model, "neural": {"dimensions": 4, "filter_rank": 4}}
    config = from_dict({**settings, "training": {"epochs": 2, "batch_users": 12, "device": "cpu"}})
    plain = run(config, tmp_path / "plain")
    refit = run(config, tmp_path / "refit", refit=True)
    everything = run(replace(config, split=SplitConfig("none")), tmp_path / "none")
    whole = len(open_bundle(tmp_path / "none").dataset.interactions)
    learned = [len(one.bundle.recommender.dataset.interactions) for one in (plain, refit, everything)]
    assert learned[0] < whole
    assert learned[1:] == [whole, whole]
    assert refit.report is not None
    assert refit.report.metrics == plain.report.metrics
    assert everything.report is None
    assert [one.bundle.config["split"]["name"] for one in (plain, refit, everything)] == ["global-time", "none", "none"]


@pytest.mark.parametrize(
    ("rows", "lack"),
    [
        (["a,x,1", "a,y,1", "b,x,1", "b,y,1", "b,z,1", "c,z,1"], "no user can spare an item for validation"),
        ([f"u{u % 21},i{u % 4 + u // 21},{u}" for u in range(28)], "no user has two different items"),
    ],
)
def test_a_network_that_too_few_events_cannot_train_is_said(tmp_path, rows, lack):
    path, said = tmp_path / "few.csv", list[str]()
    path.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    settings = {"data": {"path": str(path)}, "model": "lightgcn", "training": {"epochs": 1, "device": "cpu"}}
    outcome = run(from_dict(settings), tmp_path / "bundle", said.append)
    assert outcome.warnings[-1].startswith(f"too few events to train on: {lack}, so the network learned nothing;")
    assert said.count(f"warning: {outcome.warnings[-1]}") == 1


def test_only_a_runs_own_checkpoint_is_removed(events, tmp_path):
    config = from_dict({"data": {"path": str(events)}, "model": "popularity"})
    own, foreign = tmp_path / "one.checkpoint", tmp_path / "two.checkpoint"
    for folder in (own, foreign):
        folder.mkdir()
        (folder / CHECKPOINT).write_bytes(b"")
    (foreign / "notes.txt").write_text("mine")
    for name in ("one", "two"):
        run(config, tmp_path / name)
    assert not own.exists()
    assert [entry.name for entry in foreign.iterdir()] == ["notes.txt"]


def test_refit_trains_as_many_epochs_as_validation_chose(world, tmp_path, monkeypatch):
    split = SPLITS["random"](world, SplitConfig("random"))
    trainer = Trainer(TRAINING, tmp_path, progress=False)
    model = NeuralRecommender(NETWORK, trainer).fit(split.train, split.validation)
    chosen, head = trainer.epochs["graph"], model.network.fusion.state_dict()
    steps, step = [], Loop._step
    monkeypatch.setattr(Loop, "_step", lambda self, task, *rest: steps.append(task) or step(self, task, *rest))
    model.refit(world)
    assert {task.name for task in steps} == {"graph"}, "the fusion stays"
    assert len(steps) == chosen * steps[0].steps_per_epoch
    assert model.dataset is world
    assert all((model.network.fusion.state_dict()[name] == value).all() for name, value in head.items())
    resumed = NeuralRecommender(NETWORK, Trainer(TRAINING, tmp_path, progress=False))
    again = resumed.fit(split.train, split.validation).refit(world)
    assert len(steps) == chosen * steps[0].steps_per_epoch, "both trainings were finished"
    assert all(np.array_equal(again.state()[0][name], value) for name, value in model.state()[0].items())


def test_the_export_of_an_event_store_trains_the_default_model(tmp_path):
    from lanner.serving.messages import Event
    from lanner.serving.store import open_store
    from lanner.serving.store.export import export_events

    store = open_store(str(tmp_path / "events.db"))
    pairs = [(u, i) for u in range(12) for i in range(8) if (u * 3 + i * 5) % 7 < 4]
    for place, (user, item) in enumerate(pairs):
        store.append([Event(user_id=f"u{user}", item_id=f"i{item}", timestamp=1e9 + 60 * place)], 2e9)
    export_events(store, tmp_path / "events.parquet")
    store.close()
    settings = {"data": {"path": str(tmp_path / "events.parquet")}, "neural": {"dimensions": 4, "filter_rank": 4}}
    outcome = run(from_dict({**settings, "training": {"epochs": 1, "device": "cpu"}}), tmp_path / "bundle")
    assert outcome.bundle.config["split"]["name"] == "global-time"
    assert len(outcome.notes) == 1
    json.dumps(outcome.bundle.manifest["metrics"])
