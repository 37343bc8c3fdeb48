"""Predictions follow from the numbers, and the search finds the placement they favour."""

from dataclasses import replace

import pytest

from lanner.distributed.cluster import read_cluster
from lanner.distributed.degrees import AXES, Degrees
from lanner.distributed.planner import explain, plan_of, search
from lanner.distributed.prediction import CostTable, predict
from lanner.distributed.simulator import order_of, simulate
from lanner.errors import ConfigError, DataError

TABLE = CostTable((0.01,) * 8, (0.02,) * 8, (2.0**20,) * 8, (2.0**20,) * 8, hop=65536.0, kept=(2.0**20,) * 8, heads=4)
RACKS = """
[[rack]]
name = "left"
devices = 2
bandwidth_mbit = 1000
[[rack]]
name = "right"
devices = 2
slowness = [1.0, {slow}]
bandwidth_mbit = 1000
[[link]]
racks = ["left", "right"]
bandwidth_mbit = {core}
"""


@pytest.fixture
def cluster(tmp_path):
    def made(core=100, slow=1.0):
        path = tmp_path / "cluster.toml"
        path.write_text(RACKS.format(core=core, slow=slow))
        return read_cluster(path)

    return made


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_bubble_of_equal_stages_is_that_of_the_formula(schedule):
    timeline = simulate(order_of(schedule, 4, 8), [1.0] * 4, [2.0] * 4, lambda one, other: 0.0)
    assert timeline.bubble == pytest.approx(3 / (8 + 3))
    assert timeline.seconds == pytest.approx(3 * (8 + 3))


@pytest.mark.parametrize("schedule", ["interleaved", "looped-bfs", "zero-bubble", "zbv"])
def test_the_orders_of_torch_are_read(schedule):
    pytest.importorskip("torch")
    order = order_of(schedule, 2, 4)
    forwards = [one for rank in order for one in rank if one.kind == "F"]
    assert len(forwards) == len(set(forwards)) == 4 * 4
    timeline = simulate(order, [0.5] * 4, [1.0] * 4, lambda one, other: 0.0)
    even = simulate(order_of("gpipe", 2, 4), [1.0] * 2, [2.0] * 2, lambda one, other: 0.0)
    assert sum(timeline.busy) == pytest.approx(sum(even.busy))
    assert timeline.seconds < even.seconds


def test_one_device_takes_the_sum_of_its_layers(cluster):
    one = replace(cluster(), devices=cluster().devices[:1])
    plan = plan_of(TABLE, one, Degrees(), "gpipe", 1)
    assert predict(TABLE, one, plan, 16).seconds == pytest.approx(16 * 8 * 0.03)
    assert predict(TABLE, one, plan, 16).utilisation == pytest.approx(1.0)
    assert predict(TABLE, one, plan, 16).traffic == 0


def test_the_axis_with_less_traffic_crosses_the_slow_core(cluster):
    """Micro-batches that pass once a step are fewer bytes than gradients: the pipeline crosses the racks."""
    best = search(TABLE, cluster(core=25), 16, compressions=("none",))[0]
    assert best.plan.degrees.order[0] == "pp"
    assert best.plan.degrees.pipeline > 1
    fast = search(TABLE, cluster(core=100_000), 16, compressions=("none",))[0]
    assert fast.plan.degrees.pipeline == 1


def test_a_hybrid_is_never_slower_than_its_modes(cluster):
    for core in (25, 100, 1000):
        for slow in (1.0, 3.0):
            found = search(TABLE, cluster(core, slow), 16)
            for axis in AXES:
                alone = search(TABLE, cluster(core, slow), 16, only=frozenset((axis,)))
                assert found[0].seconds <= alone[0].seconds


def test_balancing_gives_the_slow_device_less(cluster):
    slow = cluster(slow=3.0)
    balanced = plan_of(TABLE, slow, Degrees(pipeline=4), "1f1b", 8)
    even = plan_of(TABLE, slow, Degrees(pipeline=4), "1f1b", 8, balanced=False)
    assert even.bounds == (0, 2, 4, 6, 8)
    assert balanced.bounds[4] - balanced.bounds[3] == 1
    assert predict(TABLE, slow, balanced, 16).seconds < 0.7 * predict(TABLE, slow, even, 16).seconds
    assert plan_of(TABLE, slow, Degrees(replicas=4), "gpipe", 16).shares == (5, 5, 5, 1)


def test_memory_forces_checkpointing_and_sharding(cluster):
    huge = replace(TABLE, kept=(2.0**31,) * 8)
    assert search(huge, cluster(), 16, only=frozenset(("replicate",)))[0].plan.checkpointing
    with pytest.raises(ConfigError, match="fits into their memory"):
        search(replace(TABLE, weights=(2.0**40,) * 8), cluster(), 16)


def test_the_choice_is_explained(cluster):
    lines = explain(search(TABLE, cluster(), 16))
    assert len(lines) == 4
    assert "ms a step" in lines[0]
    assert all("slower" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ('racks = ["left", "right"]', 'racks = ["left", "left"]'),
            "field 'link 1': racks must be the names of two racks (left, right), received ['left', 'left']",
        ),
        (
            ("[[link]]", "[[rack]]\nname = 'far'\ndevices = 1\nbandwidth_mbit = 9\n[[link]]"),
            "between the racks 'left' and",
        ),
        (
            ("[[link]]", "[[link]]\nracks = ['right', 'left']\nbandwidth_mbit = 9\n[[link]]"),
            "a second link between left",
        ),
        (('name = "right"', 'name = "left"'), "field 'rack 2': two racks are named 'left'"),
        (("devices = 2\nbandwidth", "devices = 2.5\nbandwidth"), "field 'rack 1': devices must be a whole number"),
        (("devices = 2\nbandwidth", "devices = inf\nbandwidth"), "field 'rack 1': devices must be a positive number"),
        (("[[link]]", "[[wire]]"), "field 'wire': is unknown"),
        (("devices = 2\nbandwidth", "devices = 0\nbandwidth"), "field 'rack 1': devices must be a positive number"),
        (("slowness = [1.0, 1.0]", "slowness = [1.0]"), "a list of 2, one for each device; received [1.0]"),
        (("bandwidth_mbit = 1000", "bandwidth = 1000"), "field 'rack 1': bandwidth_mbit is missing"),
        (("[[rack]]", "[[rack"), "is not valid TOML"),
        (("devices = 2\nbandwidth", "devices = 1_000_000\nbandwidth"), "devices must be a whole number up to 100,000"),
        (("bandwidth_mbit = 1000", f"bandwidth_mbit = 1{'0' * 400}"), "bandwidth_mbit must be a positive number"),
        (("slowness = [1.0, 1.0]", "slowness = true"), "slowness must be a positive number, or a list of 2"),
        (('name = "left"', "name = 3"), "field 'rack 1': name must be a string, received 3"),
        (
            ("bandwidth_mbit = 1000", "bandwith_mbit = 1\nbandwidth_mbit = 1"),
            "bandwith_mbit is unknown; known: bandwidth_mbit",
        ),
    ],
)
def test_a_faulty_cluster_file_is_refused_in_one_line(tmp_path, change, said):
    path = tmp_path / "cluster.toml"
    path.write_text(RACKS.format(core=100, slow=1.0).replace(*change, 1))
    with pytest.raises(DataError) as refusal:
        read_cluster(path)
    assert said in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["rack = 3", "rack = [3]", "[rack]\nname = 'left'", "link = 'left'"])
def test_tables_of_another_type_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "cluster.toml"
    path.write_text(text if "rack" in text else f"{text}\n{RACKS.partition('[[link]]')[0].format(slow=1.0)}")
    with pytest.raises(DataError, match=r"must be tables, each under its own \[\[") as refusal:
        read_cluster(path)
    assert "\n" not in str(refusal.value)


def test_a_cluster_file_of_other_bytes_is_refused(tmp_path):
    (tmp_path / "cluster.toml").write_bytes(b'[[rack]]\nname = "\xff"')
    with pytest.raises(DataError, match="is not valid TOML"):
        read_cluster(tmp_path / "cluster.toml")


def test_a_missing_cluster_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_cluster(tmp_path / "none.toml")


def test_few_buckets_overlap_less_of_the_backward_pass(cluster):
    plans = {one: plan_of(TABLE, cluster(25), Degrees(replicas=4), "gpipe", 4, one) for one in ("none", "int8")}
    table = replace(TABLE, backward=(10.0,) * 8)  # everything but the last bucket's all-reduce fits beside it
    found = {one: predict(table, cluster(25), plan, 16).parts["gradients"] for one, plan in plans.items()}
    link = cluster(25).link([0, 1, 2, 3])
    assert found["none"] == pytest.approx(link.seconds(1.5 * 8 * 2**20, 6) / 8)
    assert found["int8"] == pytest.approx(link.seconds(3 * 0.2539 * 8 * 2**20, 6) / 2)


def test_each_bucket_costs_an_all_reduce(cluster):
    plan = plan_of(TABLE, cluster(25), Degrees(replicas=2, pipeline=2), "1f1b", 4, "none")
    seconds = [predict(replace(TABLE, sum_overhead=one), cluster(25), plan, 16).seconds for one in (0.0, 0.1)]
    assert seconds[1] - seconds[0] == pytest.approx(8 * 0.1)
