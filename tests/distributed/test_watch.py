"""A hanging rank ends the run and is named."""

import os
import signal
import subprocess
import time

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from torch.multiprocessing import ProcessExitedException  # noqa: E402

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import adamw  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.distributed.watch import Watch  # noqa: E402


def _reading() -> None:
    time.sleep(60)


def _stopping() -> None:
    subprocess.Popen(["sh", "-c", f"sleep 15; kill -KILL {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)


def _hangs(degrees: Degrees, how: str, inside: bool, errors: str) -> None:
    """Rank 1 hangs at its second step, in the first layer that it has, or before the step. errors: takes stderr."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    engine = Engine(small_chain("bert"), EngineConfig(degrees, micro_batches=2), adamw)
    engine.step(*pairs(0), pairs_loss)
    watch = Watch(2.0, answer_seconds=4.0)
    hang = {"reading": _reading, "stopping": _stopping}[how]
    if torch.distributed.get_rank() == 1:
        if inside:
            next(iter(engine.stages.values())).register_forward_pre_hook(lambda *given: hang())
        else:
            hang()
    with watch.step(1):
        engine.step(*pairs(1), pairs_loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degrees", "how", "inside", "named"),
    [
        (Degrees(replicas=2), "reading", False, "rank 1 is still at test_watch.py"),
        (Degrees(replicas=2), "reading", True, "rank 1 is still at test_watch.py"),
        (Degrees(shards=2), "reading", True, "rank 1 is still at test_watch.py"),
        (Degrees(pipeline=2), "reading", True, "rank 1 is still at test_watch.py"),
        (Degrees(replicas=2), "stopping", True, "rank 1 does not answer"),
    ],
)
def test_a_rank_that_hangs_is_named_in_one_line(tmp_path, degrees, how, inside, named):
    begun = time.monotonic()
    with pytest.raises(ProcessExitedException) as ended:
        run_ranks(2, _hangs, degrees, how, inside, str(tmp_path / "errors"))
    assert ended.value.exit_code == 2
    assert time.monotonic() - begun < 50
    said = [line for line in (tmp_path / "errors").read_text().splitlines() if line.startswith("lanner: ")]
    assert len(said) == 1
    assert "step 1 took longer than 2 s" in said[0]
    assert named in said[0]
    assert "rank 0" not in said[0]


def _quick() -> int:
    engine = Engine(small_chain("bert"), EngineConfig(Degrees(replicas=2)), adamw)
    watch = Watch(0.5)
    for step in range(2):
        with watch.step(step):
            engine.step(*pairs(step), pairs_loss)
        time.sleep(1.5)
    watch.close()
    return engine.steps


def test_time_between_steps_does_not_count():
    assert run_ranks(2, _quick) == 2
