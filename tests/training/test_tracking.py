"""Training logs: their contents, and the message if a package is missing."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from stand_ins import small_world  # noqa: E402

from lanner.config import RunConfig  # noqa: E402
from lanner.errors import ConfigError, MissingExtraError  # noqa: E402
from lanner.models.neural import NeuralConfig, NeuralRecommender  # noqa: E402
from lanner.registry import planned  # noqa: E402
from lanner.training import tracking  # noqa: E402
from lanner.training.loop import Trainer, TrainingConfig  # noqa: E402
from lanner.training.tasks import LOWER_RATE  # noqa: E402
from lanner.training.tracking import Rates  # noqa: E402

pytestmark = pytest.mark.usefixtures("hashed_words")

NETWORK = NeuralConfig(views=("graph", "language"), fusion="sum", dimensions=4, layers=1)


def fit(log: str, folder) -> Trainer:
    config = TrainingConfig(epochs=3, patience=3, batch_users=10, device="cpu", log=log, log_folder=str(folder))
    trainer = Trainer(config, progress=False)
    NeuralRecommender(NETWORK, trainer).fit(small_world())
    return trainer


def test_tensorboard_has_losses_rates_and_validation(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'tracking' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = fit("tensorboard", tmp_path / "log")
    (run,) = (tmp_path / "log").iterdir()
    kept = EventAccumulator(str(run)).Reload()
    assert {"graph/loss", "graph/ndcg_at_10", "graph/users_per_s", "graph/memory_mib"} <= set(kept.Tags()["scalars"])
    qualities = [one.value for one in kept.Scalars("graph/ndcg_at_10")]
    assert len(qualities) == 3
    assert max(qualities) == pytest.approx(trainer.qualities["graph"])


def test_mlflow_has_losses_rates_and_validation(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra 'tracking' is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trainer = fit("mlflow", tmp_path / "log")
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    mlflow.end_run()
    assert min(run.data.metrics[f"{task}/loss"] for task in ("graph", "language", f"language{LOWER_RATE}")) > 0
    qualities = [one.value for one in mlflow.MlflowClient().get_metric_history(run.info.run_id, "graph/ndcg_at_10")]
    assert max(qualities) == pytest.approx(trainer.qualities["graph"])


@pytest.mark.parametrize("log", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch, log):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    config = replace(RunConfig(model="gnn"), training=TrainingConfig(log=log))
    with pytest.raises(MissingExtraError, match=rf"training.log={log} needs .*lanner\[tracking\]"):
        planned(config, small_world())


def test_an_unknown_log_is_refused():
    with pytest.raises(ConfigError, match=r"training\.log must be one of none, tensorboard, mlflow, received 'paper'"):
        TrainingConfig(log="paper")


def test_bytes_are_those_of_a_step():
    rates = Rates(sent=1_000_000)
    for _ in range(4):
        rates.add({"texts": 8})
    figures = rates.figures(sent=9_000_000)
    assert figures["replica_mb_per_step"] == 2.0
    assert figures["texts_per_s"] > 0
