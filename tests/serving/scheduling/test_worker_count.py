"""How many workers there are to be."""

import pytest

from lanner.errors import ConfigError
from lanner.serving.scheduling import Elastic, ElasticConfig

CONFIG = ElasticConfig(minimum=1, maximum=6, waiting_per_worker=10, grow_after_s=1, shrink_after_s=5)


def test_a_queue_grows_the_count_at_once_and_to_the_maximum_at_most():
    assert Elastic(CONFIG).wanted(35, 0.5, 0, now=0) == 4
    assert Elastic(CONFIG).wanted(10_000, 1.0, 50, now=0) == 6


def test_busy_workers_or_misses_ask_for_more_one_step_at_a_time():
    busy = Elastic(CONFIG)
    assert [busy.wanted(0, 1.0, 0, now) for now in (0, 0.5, 1.0)] == [2, 2, 3]
    assert Elastic(CONFIG).wanted(0, 0.1, 1, now=0) == 2


def test_the_count_falls_slowly_and_only_after_quiet():
    elastic = Elastic(CONFIG)
    elastic.wanted(35, 1.0, 0, now=0)
    counts = [elastic.wanted(0, 0.1, 0, now) for now in range(1, 30)]
    assert counts[:5] == [4] * 5
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == CONFIG.minimum


def test_one_busy_moment_starts_the_quiet_anew():
    elastic = Elastic(CONFIG)
    elastic.wanted(15, 0.9, 0, now=0)
    loads = [0.1, 0.1, 0.1, 0.1, 0.7, 0.1, 0.1, 0.1, 0.1]
    assert [elastic.wanted(0, load, 0, now) for now, load in enumerate(loads, 1)] == [2] * 9


@pytest.mark.parametrize(
    "changes",
    [{"minimum": 0}, {"minimum": 9, "maximum": 8}, {"waiting_per_worker": 0}, {"target": 1.0}, {"grow_after_s": 0.0}],
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"elastic\.{next(iter(changes))}"):
        ElasticConfig(**changes)
