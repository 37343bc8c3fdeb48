"""The arithmetic of parallel degrees: rank placement, and one-line errors for invalid degrees."""

import pytest

from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.errors import ConfigError


def test_degrees_are_read_in_the_order_written():
    degrees = Degrees.parse("pp=2, replicate=3,tp=2")
    assert (degrees.pipeline, degrees.replicas, degrees.tensor, degrees.world) == (2, 3, 2, 12)
    assert degrees.order == ("pp", "replicate", "tp", "shard")
    assert Degrees.parse("dp=2,fsdp=2") == Degrees(replicas=2, shards=2, order=("replicate", "shard", "pp", "tp"))


def test_the_first_axis_is_the_slowest():
    degrees = Degrees.parse("pp=2,replicate=2")
    assert [degrees.place(rank)["pp"] for rank in range(4)] == [0, 0, 1, 1]
    assert degrees.ranks_along("pp", 1) == [1, 3]
    assert degrees.ranks_along("replicate", 1) == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dp=two", "received 'dp=two'"),
        ("xp=2", "received 'xp=2'"),
        ("dp=2,replicate=2", "at most once"),
        ("tp=0", "tensor must be at least 1"),
    ],
)
def test_what_cannot_be_read_is_named(text, said):
    with pytest.raises(ConfigError, match=said):
        Degrees.parse(text)


def test_the_product_is_written_out():
    with pytest.raises(ConfigError, match=r"replicate 2 × pp 2 × shard 1 × tp 1 = 4 ranks, but there are 3"):
        Degrees.parse("replicate=2,pp=2").check_world(3)


def test_heads_and_layers_must_be_divisible():
    sizes = {"layers": 6, "heads": 12, "key_value_heads": 4}
    Degrees(tensor=4, pipeline=6).check_model(**sizes)
    with pytest.raises(ConfigError, match=r"tp 3 does not divide the 4 key-value heads .*\[1, 2, 4\]"):
        Degrees(tensor=3).check_model(**sizes)
    with pytest.raises(ConfigError, match="pp 4 × 2 stages per rank = 8 stages, but the model has 6 layers"):
        Degrees(pipeline=4).check_model(**sizes, stages_per_rank=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"micro_batches": 0}, r"parallel\.micro_batches must be at least 1, received 0"),
        ({"dense_steps": -1}, r"parallel\.dense_steps must be at least 0"),
        ({"shares": (2, 0)}, r"parallel\.shares must be numbers of at least 1, received \[2, 0\]"),
    ],
    ids=str,
)
def test_settings_of_a_step_out_of_range_are_refused_by_name(change, words):
    with pytest.raises(ConfigError, match=words):
        EngineConfig(**change)
