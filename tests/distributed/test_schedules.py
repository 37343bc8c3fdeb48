"""Which schedules can run which numbers of micro-batches."""

import pytest

from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.schedules import (
    SCHEDULES,
    can_run,
    check_micro_batches,
    rank_of,
    schedule_kind,
    share_steps,
    stages_of,
)
from lanner.distributed.simulator import order_of
from lanner.errors import ConfigError


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("gpipe", "1f1b")])
def test_what_can_run_is_what_torch_accepts(name, ranks):
    pytest.importorskip("torch")
    for count in range(1, 14):
        if can_run(schedule_kind(name), ranks, count):
            assert order_of(name, ranks, count)
        else:
            with pytest.raises(ValueError, match="micro"):
                order_of(name, ranks, count)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_shares_in_steps_can_be_run(name, ranks):
    least, step = share_steps(schedule_kind(name), ranks)
    assert all(can_run(schedule_kind(name), ranks, least + step * more) for more in range(8))
    assert not can_run(schedule_kind(name), ranks, 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_stage_is_on_the_rank_that_has_it(name):
    kind = schedule_kind(name)
    for rank in range(3):
        assert [rank_of(stage, 3, kind) for stage in stages_of(rank, 3, kind)] == [rank] * kind.stages_per_rank


@pytest.mark.parametrize(
    ("schedule", "shares", "said"),
    [
        ("interleaved", None, "schedule interleaved over pp 2 cannot run 5 micro-batches; give a multiple of 2"),
        ("zero-bubble", (4, 7), "schedule zero-bubble over pp 2 cannot run 7 micro-batches"),
        ("1f1b", (8, 1), "schedule 1f1b needs at least as many micro-batches as stages, 2, received 1"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(schedule, shares, said):
    config = EngineConfig(Degrees(pipeline=2, replicas=2), schedule, 5, shares=shares)
    with pytest.raises(ConfigError) as refusal:
        check_micro_batches(config)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
