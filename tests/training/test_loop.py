"""An interrupted and resumed run is bit-identical to an uninterrupted one."""

import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import small_world

from lanner.errors import ConfigError, DataError, DivergedError, Interrupted
from lanner.models.neural import NeuralConfig, NeuralRecommender
from lanner.training import weights
from lanner.training.checkpoint import FILE
from lanner.training.divergence import first_not_finite
from lanner.training.interrupts import interrupts_held
from lanner.training.loop import Loop, Trainer, TrainingConfig
from lanner.training.tasks import ViewTask

pytestmark = pytest.mark.usefixtures("hashed_words")

NETWORK = NeuralConfig(
    views=("graph", "filter", "language"),
    dimensions=4,
    layers=1,
    filter_rank=4,
    language_dimensions=4,
    word_dimensions=4,
    cold_neighbours=3,
)
TRAINING = TrainingConfig(epochs=3, patience=1, batch_users=10, learning_rate=0.02, device="cpu")


class Killed(BaseException):
    """Stands in for kill -9: nothing is caught, nothing saved."""


def fit(folder: Path | None, network: NeuralConfig = NETWORK, training: TrainingConfig = TRAINING, **world):
    trainer = Trainer(training, folder, progress=False)
    return NeuralRecommender(network, trainer).fit(small_world(**world)).state()[0]


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]


@pytest.fixture
def at_step(monkeypatch):
    """``at_step(n, act)``: just before the n-th step of a run, counted over all its tasks, ``act`` happens."""
    original = Loop._step

    def install(number, act=lambda: None):
        taken = []

        def step(self, task, *rest):
            if len(taken) == number:
                act()
            taken.append(task.name)
            return original(self, task, *rest)

        monkeypatch.setattr(Loop, "_step", step)
        return taken

    return install


@pytest.fixture(scope="module", autouse=True)
def a_short_search():
    """Of the views' weights: two factors, once round; chosen twice, they would move twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_FACTORS", (0.5, 2.0))
        patch.setattr(weights, "_ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def uninterrupted(hashed_words, a_short_search):
    return fit(None)


@pytest.fixture(scope="module")
def steps(hashed_words, a_short_search):
    """Names of the tasks of all steps of a run that nobody stops."""
    with pytest.MonkeyPatch.context() as patch:
        original, names = Loop._step, []
        patch.setattr(Loop, "_step", lambda self, task, *rest: names.append(task.name) or original(self, task, *rest))
        fit(None)
    return names


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def test_two_runs_give_the_same_bits_and_another_seed_others(uninterrupted):
    assert differences(uninterrupted, fit(None)) == []
    assert differences(uninterrupted, fit(None, training=replace(TRAINING, seed=1)))
    assert "network.views.graph.vectors" in differences(uninterrupted, fit(None, network=replace(NETWORK, seed=1)))


@pytest.mark.parametrize("views", [("relational", "language"), ("graph",)])
def test_a_run_on_sampled_neighbours_learns_and_resumes_to_the_same_bits(tmp_path, at_step, views):
    network = replace(NETWORK, views=views, fusion="sum", fanout=2)
    training = replace(TRAINING, num_candidates=12)
    sampled = fit(None, network, training)
    assert differences(sampled, fit(None, replace(network, fanout=0), training))
    at_step(2, press_ctrl_c)
    with pytest.raises(Interrupted):
        fit(tmp_path, network, training)
    at_step(-1)
    assert differences(sampled, fit(tmp_path, network, training)) == []


@pytest.mark.parametrize("candidates", [12, 8192])
@pytest.mark.parametrize("view", ["graph", "relational"])
def test_the_loss_on_all_sampled_neighbours_is_that_on_the_whole_graph(view, candidates):
    losses, world = [], small_world()
    for fanout in (0, 100):
        model = NeuralRecommender(replace(NETWORK, views=(view,), fanout=fanout)).untrained(world)
        task = ViewTask(model.network, view, world, None, replace(TRAINING, num_candidates=candidates))
        losses.append([float(task.loss(step).detach()) for step in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def places(steps: list[str]) -> dict[str, int]:
    """Some steps that matter: the first, mid-epoch in each task, and the first of each task."""
    first = {name: steps.index(name) for name in dict.fromkeys(steps)}
    return (
        {"start": 0} | {f"first of {n}": p for n, p in first.items()} | {f"within {n}": p + 1 for n, p in first.items()}
    )


def test_ctrl_c_anywhere_resumes_to_the_same_bits(tmp_path, at_step, steps, uninterrupted):
    assert list(dict.fromkeys(steps)) == ["graph", "language", "language at a lower rate", "head"]
    for name, number in places(steps).items():
        folder = tmp_path / name
        at_step(number, press_ctrl_c)
        with pytest.raises(Interrupted, match="the same command resumes from") as caught:
            fit(folder)
        assert caught.value.exit_code == 130
        left = at_step(-1)
        assert differences(uninterrupted, fit(folder)) == [], name
        assert len(left) == len(steps) - number - 1, name


def test_a_kill_anywhere_resumes_to_the_same_bits(tmp_path, at_step, steps, uninterrupted):
    def die():
        raise Killed

    for name, number in places(steps).items():
        if "first" in name:
            continue
        folder = tmp_path / name
        at_step(number, die)
        with pytest.raises(Killed):
            fit(folder)
        assert number < 3 or (folder / FILE).exists()
        left = at_step(-1)
        assert differences(uninterrupted, fit(folder)) == [], name
        # A kill costs at most the epoch it fell into.
        assert len(left) < len(steps) or number < 3, name


def test_with_more_checkpoints_a_kill_repeats_fewer_steps(tmp_path, at_step, steps, uninterrupted):
    def die():
        raise Killed

    number = steps.index("language") + 2
    repeated = {}
    for seconds in (60, 0):
        training = replace(TRAINING, checkpoint_seconds=seconds)
        at_step(number, die)
        with pytest.raises(Killed):
            fit(tmp_path / str(seconds), training=training)
        left = at_step(-1)
        assert differences(uninterrupted, fit(tmp_path / str(seconds), training=training)) == []
        repeated[seconds] = len(left) - (len(steps) - number)
    assert repeated == {60: 2, 0: 0}


def test_ctrl_c_while_judging_an_epoch_loses_neither_the_verdict_nor_the_wish(tmp_path, monkeypatch, uninterrupted):
    original, asked = ViewTask.quality, []

    def quality(self):
        asked.append(self.name)
        if len(asked) == 1:
            press_ctrl_c()
        return original(self)

    monkeypatch.setattr(ViewTask, "quality", quality)
    with pytest.raises(Interrupted):
        fit(tmp_path)
    assert len(asked) == 1
    assert differences(uninterrupted, fit(tmp_path)) == []


def test_ctrl_c_at_every_other_step_gets_there_too(tmp_path, at_step, uninterrupted):
    for _ in range(60):
        at_step(1, press_ctrl_c)
        try:
            arrays = fit(tmp_path)
        except Interrupted:
            continue
        assert differences(uninterrupted, arrays) == []
        return
    pytest.fail("the run never ended")


def test_a_finished_run_is_not_trained_again(tmp_path, at_step, uninterrupted):
    fit(tmp_path)
    taken = at_step(-1)
    assert differences(uninterrupted, fit(tmp_path)) == []
    assert taken == []


def test_without_a_folder_nothing_is_kept_and_the_message_says_so(at_step):
    at_step(2, press_ctrl_c)
    with pytest.raises(Interrupted, match="nothing was kept"):
        fit(None)


@pytest.mark.parametrize(
    "other",
    [
        {"training": replace(TRAINING, learning_rate=0.01)},
        {"training": replace(TRAINING, seed=5)},
        {"network": replace(NETWORK, dimensions=5)},
        {"network": replace(NETWORK, layers=2)},
        {"network": replace(NETWORK, feature_dropout=0.5)},
        {"network": replace(NETWORK, fusion="gated")},
        {"events_seed": 1},
        {"ties": False},
    ],
    ids=lambda other: "-".join(other),
)
def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path, at_step, other):
    at_step(4, press_ctrl_c)
    with pytest.raises(Interrupted):
        fit(tmp_path)
    with pytest.raises(DataError, match="other data or settings"):
        fit(tmp_path, **other)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match=FILE):
        fit(tmp_path)


def test_the_first_ctrl_c_waits_and_the_second_does_not():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held() as must_stop:
        assert not must_stop()
        press_ctrl_c()
        assert must_stop()
        with pytest.raises(KeyboardInterrupt):
            press_ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before


def test_training_runs_in_a_thread_where_no_signal_arrives(uninterrupted):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(None)))
    thread.start()
    thread.join()
    assert differences(uninterrupted, found[0]) == []


def test_patience_ends_a_task_and_its_best_state_is_kept(monkeypatch):
    qualities, kept = iter([0.5, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), []

    def quality(self):
        kept.append(self.module.state_dict()["vectors"].clone())
        return next(qualities)

    monkeypatch.setattr(ViewTask, "quality", quality)
    arrays = fit(None, replace(NETWORK, views=("graph",)), replace(TRAINING, epochs=8, patience=2))
    assert len(kept) == 5
    np.testing.assert_array_equal(arrays["network.views.graph.vectors"], kept[1])


def test_a_loss_that_is_not_finite_ends_training_and_the_checkpoint_stays(tmp_path, monkeypatch):
    original, kept = ViewTask.loss, []

    def loss(self, step):
        if self.name != "graph" or step < 5:
            return original(self, step)
        kept.append((tmp_path / FILE).read_bytes())
        with torch.no_grad():
            self.module.vectors.fill_(torch.nan)
        return original(self, step)

    monkeypatch.setattr(ViewTask, "loss", loss)
    with pytest.raises(DivergedError) as told:
        fit(tmp_path)
    said = "'graph' diverged in epoch 2 after 5 steps: the loss is nan for 4 users, from parameter vectors on; lower"
    assert str(told.value).startswith(said)
    assert (tmp_path / FILE).read_bytes() == kept[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_no_quality(tmp_path, monkeypatch, value):
    original = ViewTask.score

    def score(self, users):
        scores = original(self, users)
        scores[0, 0] = value
        return scores

    monkeypatch.setattr(ViewTask, "score", score)
    with pytest.raises(DivergedError, match=r"'graph' diverged in epoch 1 .*the scores of validation users are not"):
        fit(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_the_first_layer_with_a_value_that_is_not_finite_is_found():
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert first_not_finite(layers, lambda: layers(torch.ones(1, 2))) is None
    with torch.no_grad():
        layers[1].weight.fill_(3e38)
        layers[0].bias.fill_(10.0)
    assert first_not_finite(layers, lambda: layers(torch.ones(1, 2))) == "layer 1"
    with torch.no_grad():
        layers[2].bias[0] = torch.inf
    assert first_not_finite(layers, lambda: layers(torch.ones(1, 2))) == "parameter 2.bias"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("batch_users", 0), ("hide", 1.0), ("objective", "hinge"), ("seed", -1), ("num_candidates", 0)],
)
def test_settings_out_of_range_are_refused_by_name(setting, value):
    with pytest.raises(ConfigError, match=setting):
        TrainingConfig(**{setting: value})


def test_a_trainer_that_does_not_fuse_trains_the_views_alone():
    whole, views = (Trainer(TRAINING, progress=False, fuses=fuses) for fuses in (True, False))
    for trainer in (whole, views):
        model = NeuralRecommender(NETWORK, trainer).fit(small_world())
    assert set(whole.qualities) == {"graph", "language", "language at a lower rate", "weights", "head"}
    assert whole.qualities["language at a lower rate"] >= whole.qualities["language"]
    assert whole.trained_qualities["graph"] == whole.qualities["graph"]
    assert whole.trained_qualities["head"] <= whole.qualities["head"]
    assert set(views.qualities) == {"graph", "language", "language at a lower rate"}
    assert (model.network.fusion.get_buffer("weights") == 1).all()
