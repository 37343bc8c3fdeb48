"""Checkpoints are written in parallel with training and load on a different number of ranks."""

import json
import resource
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import adamw  # noqa: E402
from lanner.distributed import wire  # noqa: E402
from lanner.distributed.checkpoint import Checkpoints  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.errors import ConfigError, StorageError  # noqa: E402

STEPS = 4


def _train(folder: str, degrees: Degrees, until: int, run: str = "a run") -> list[float]:
    """Losses of the steps from the newest checkpoint on; each step is kept."""
    micro_batches = 8 // degrees.data
    engine = Engine(small_chain("bert"), EngineConfig(degrees, micro_batches=micro_batches), adamw)
    kept = Checkpoints(Path(folder), engine, run)
    losses = []
    for step in range(kept.load(), until):
        losses.append(engine.step(*pairs(step), pairs_loss))
        kept.save()
    kept.finish()
    return losses


FOUR = Degrees(replicas=2, pipeline=2)


@pytest.mark.parametrize("degrees", [Degrees(shards=2), Degrees(tensor=2), Degrees()], ids=["FSDP2", "TP", "one"])
def test_four_ranks_begin_and_fewer_go_on(tmp_path, degrees):
    whole = run_ranks(1, _train, str(tmp_path / "whole"), Degrees(), 2 * STEPS)
    first = run_ranks(4, _train, str(tmp_path / "run"), FOUR, STEPS)
    rest = run_ranks(degrees.world, _train, str(tmp_path / "run"), degrees, 2 * STEPS)
    assert len(rest) == STEPS
    assert [*first, *rest] == pytest.approx(whole, abs=1e-5)
    assert sorted(one.name for one in (tmp_path / "run").iterdir()) == ["step-7", "step-8"]


def test_no_file_of_a_checkpoint_is_pickled(tmp_path):
    run_ranks(2, _train, str(tmp_path), Degrees(pipeline=2), 1)
    assert {one.suffix for one in (tmp_path / "step-1").iterdir()} == {".safetensors", ".json"}


def _refused(folder: str, run: str) -> str:
    try:
        _train(folder, Degrees(), 2 * STEPS, run)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_checkpoint_of_another_model_or_version_is_refused(tmp_path):
    run_ranks(1, _train, str(tmp_path), Degrees(), 1)
    assert "checkpoint of another model or run" in run_ranks(1, _refused, str(tmp_path), "another")
    about = tmp_path / "step-1" / "about.json"
    about.write_text(json.dumps(json.loads(about.read_bytes()) | {"lanner": "0.0.1"}))
    assert "written by lanner 0.0.1" in run_ranks(1, _refused, str(tmp_path), "a run")


def _refused_chain(folder: str, width: int, layers: int) -> str:
    engine = Engine(small_chain("bert", width=width, layers=layers), EngineConfig(), adamw)
    try:
        Checkpoints(Path(folder), engine, "a run").load()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("width", "layers"), [(32, 4), (64, 5)], ids=["narrower", "deeper"])
def test_nor_is_one_of_a_model_of_another_shape(tmp_path, width, layers):
    run_ranks(1, _train, str(tmp_path), Degrees(), 1)
    said = run_ranks(1, _refused_chain, str(tmp_path), width, layers)
    assert "step-1: cannot be read into this model" in said
    assert "\n" not in said


def test_nor_is_a_damaged_one(tmp_path):
    run_ranks(1, _train, str(tmp_path), Degrees(), 1)
    (tmp_path / "step-1" / "about.json").write_text('{"run": "a run"')
    assert "about.json: damaged" in run_ranks(1, _refused, str(tmp_path), "a run")
    run_ranks(1, _train, str(tmp_path / "other"), Degrees(), 1)
    (part,) = (tmp_path / "other" / "step-1").glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:5000])
    assert "cannot be read into this model" in run_ranks(1, _refused, str(tmp_path / "other"), "a run")


def _disk_full(folder: str) -> str:
    engine = Engine(small_chain("bert"), EngineConfig(Degrees(pipeline=2), micro_batches=2), adamw)
    kept = Checkpoints(Path(folder), engine, "a run")
    engine.step(*pairs(0), pairs_loss)
    kept.save()
    kept.finish()
    engine.step(*pairs(1), pairs_loss)
    if torch.distributed.get_rank() == 1:
        # No file of this rank may grow beyond 200 kB, as on a disk that is full. What is printed goes to a file, too.
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    kept.save()
    try:
        kept.finish()
    except StorageError as error:
        said = str(error)
    else:
        return ""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    engine.step(*pairs(2), pairs_loss)
    kept.save()
    kept.finish()
    return said


def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path):
    """And training goes on, with the next one once there is room."""
    said = run_ranks(2, _disk_full, str(tmp_path))
    assert "could not be written" in said
    assert "the last complete one is" in said
    assert "step-1" in said
    assert "\n" not in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["step-1", "step-3"]
    assert len(run_ranks(1, _train, str(tmp_path), Degrees(), 4)) == 1


def _versions() -> str:
    if torch.distributed.get_rank() == 1:
        wire.version = lambda name: "0.0.9"
    try:
        Engine(small_chain("bert"), EngineConfig(Degrees(replicas=2)), adamw)
    except ConfigError as error:
        return str(error)
    return ""


def test_a_rank_with_another_version_is_named():
    assert "rank 1 has 0.0.9; install one version everywhere" in run_ranks(2, _versions)
