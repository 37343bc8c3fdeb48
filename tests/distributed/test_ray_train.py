"""An engine on two Ray Train workers."""

import os
import signal
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")
ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytest.importorskip("ray.train", reason="the extra 'ray' is not installed")

import torch.distributed as dist  # noqa: E402

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import adamw  # noqa: E402
from lanner.distributed.checkpoint import Checkpoints  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.distributed.ray_train import train_on_ray  # noqa: E402
from lanner.errors import ConfigError, LannerError  # noqa: E402

pytestmark = pytest.mark.slow
STEPS = 4


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}},
        configure_logging=False,
    )
    yield
    ray.shutdown()


def _train(folder: Path, lost: bool) -> list[float]:
    """Losses of the steps since the newest checkpoint. lost: rank 1 is killed once, before the third step."""
    world = dist.get_world_size()
    engine = Engine(small_chain("bert"), EngineConfig(Degrees(replicas=world), micro_batches=4 // world), adamw)
    kept = Checkpoints(folder / "checkpoints", engine, "a run")
    losses, first = [], kept.load()
    for step in range(first, STEPS):
        if lost and (first, step, dist.get_rank()) == (0, 2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append(engine.step(*pairs(step), pairs_loss))
        kept.save()
        kept.finish()
    return losses


def test_ray_gives_the_losses_of_one_process_and_restarts_lost_ranks(cluster, tmp_path):
    alone = run_ranks(1, _train, tmp_path / "alone", False)
    losses = train_on_ray(lambda: _train(tmp_path / "ray", True), 2, storage=tmp_path / "ray")
    assert losses == pytest.approx(alone[2:], abs=1e-5)


def _refused() -> None:
    Engine(small_chain("bert"), EngineConfig(Degrees(replicas=3)), adamw)


def test_a_failure_is_one_line(cluster, tmp_path):
    with pytest.raises(LannerError, match=r"training on Ray failed: .*replicate 3") as refused:
        train_on_ray(_refused, 2, storage=tmp_path, restarts=0)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="give an absolute path"):
        train_on_ray(_refused, 2, storage=Path("here"))
